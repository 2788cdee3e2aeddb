-- True labels, sent after the prediction, and joined with it where it is read: one may come before the other.
CREATE TABLE feedback (
    -- The request's, from its UUIDv7.
    day DATE NOT NULL,
    request_id UUID NOT NULL,
    -- The picture's place in the request.
    "index" BIGINT NOT NULL,
    -- Part of the key: somebody else's guess of an id is nothing to whom it belongs.
    tenant_id UUID NOT NULL,
    label TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    -- Whether its prediction was found, and the label was one of its model's.
    joined BOOLEAN NOT NULL,
    PRIMARY KEY (day, request_id, "index", tenant_id)
);
CREATE INDEX feedback_by_tenant ON feedback (tenant_id, day);
