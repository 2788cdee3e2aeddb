-- The prediction log, one row a picture.
-- Nothing here refers to rows that may go.
CREATE TABLE predictions (
    -- UTC, from the request's UUIDv7.
    day TEXT NOT NULL,
    request_id BLOB NOT NULL,
    -- The picture's place in the request.
    "index" INTEGER NOT NULL,
    tenant_id BLOB NOT NULL,
    key_id BLOB NOT NULL,
    model TEXT NOT NULL,
    -- What answered; NULL where it did not come so far.
    version INTEGER,
    digest TEXT,
    arm TEXT,
    -- The picture, without its content; NULL where none was received.
    picture_digest TEXT,
    bytes INTEGER,
    format TEXT,
    width INTEGER,
    height INTEGER,
    -- The answer; NULL where there is none.
    class TEXT,
    confidence REAL,
    -- A JSON array of {class, index, confidence}, best first.
    classes TEXT,
    cached INTEGER NOT NULL,
    -- Milliseconds.
    decode_ms REAL NOT NULL,
    queue_ms REAL NOT NULL,
    inference_ms REAL NOT NULL,
    total_ms REAL NOT NULL,
    -- The HTTP status, and the code of a failure.
    status INTEGER NOT NULL,
    code TEXT,
    trace_id TEXT,
    client_request_id TEXT,
    -- From the request's UUIDv7.
    at TEXT NOT NULL,
    PRIMARY KEY (day, request_id, "index")
) STRICT;
-- One for each filter; the newest first is the order of all lists.
CREATE INDEX predictions_by_tenant ON predictions (tenant_id, day, request_id, "index");
CREATE INDEX predictions_by_key ON predictions (key_id, day, request_id, "index");
CREATE INDEX predictions_by_version ON predictions (model, version, day, request_id, "index");
CREATE INDEX predictions_by_class ON predictions (class, day, request_id, "index");

-- Tenants whose predictions up to a time were deleted: what a spool still holds of them is not written any more.
CREATE TABLE purges (
    tenant_id BLOB PRIMARY KEY,
    at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
