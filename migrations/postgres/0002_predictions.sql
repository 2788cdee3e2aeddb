-- The prediction log, one row a picture. A partition a day, made ahead and dropped whole (`src/store/partitions.rs`).
-- Nothing here refers to rows that may go.
CREATE TABLE predictions (
    -- UTC, from the request's UUIDv7.
    day DATE NOT NULL,
    request_id UUID NOT NULL,
    -- The picture's place in the request.
    "index" BIGINT NOT NULL,
    tenant_id UUID NOT NULL,
    key_id UUID NOT NULL,
    model TEXT NOT NULL,
    -- What answered; NULL where it did not come so far.
    version BIGINT,
    digest TEXT,
    arm TEXT,
    -- The picture, without its content; NULL where none was received.
    picture_digest TEXT,
    bytes BIGINT,
    format TEXT,
    width BIGINT,
    height BIGINT,
    -- The answer; NULL where there is none.
    class TEXT,
    confidence DOUBLE PRECISION,
    -- A JSON array of {class, index, confidence}, best first.
    classes TEXT,
    cached BOOLEAN NOT NULL,
    -- Milliseconds.
    decode_ms DOUBLE PRECISION NOT NULL,
    queue_ms DOUBLE PRECISION NOT NULL,
    inference_ms DOUBLE PRECISION NOT NULL,
    total_ms DOUBLE PRECISION NOT NULL,
    -- The HTTP status, and the code of a failure.
    status BIGINT NOT NULL,
    code TEXT,
    trace_id TEXT,
    client_request_id TEXT,
    -- From the request's UUIDv7.
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (day, request_id, "index")
) PARTITION BY RANGE (day);
-- One for each filter; the newest first is the order of all lists.
CREATE INDEX predictions_by_tenant ON predictions (tenant_id, day, request_id, "index");
CREATE INDEX predictions_by_key ON predictions (key_id, day, request_id, "index");
CREATE INDEX predictions_by_version ON predictions (model, version, day, request_id, "index");
CREATE INDEX predictions_by_class ON predictions (class, day, request_id, "index");

-- Tenants whose predictions up to a time were deleted: what a spool still holds of them is not written any more.
CREATE TABLE purges (
    tenant_id UUID PRIMARY KEY,
    at TIMESTAMPTZ NOT NULL
);
