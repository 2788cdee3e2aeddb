-- True labels, sent after the prediction, and joined with it where it is read: one may come before the other.
CREATE TABLE feedback (
    -- The request's, from its UUIDv7.
    day TEXT NOT NULL,
    request_id BLOB NOT NULL,
    -- The picture's place in the request.
    "index" INTEGER NOT NULL,
    -- Part of the key: somebody else's guess of an id is nothing to whom it belongs.
    tenant_id BLOB NOT NULL,
    label TEXT NOT NULL,
    at TEXT NOT NULL,
    -- Whether its prediction was found, and the label was one of its model's.
    joined INTEGER NOT NULL,
    PRIMARY KEY (day, request_id, "index", tenant_id)
) STRICT;
CREATE INDEX feedback_by_tenant ON feedback (tenant_id, day);
