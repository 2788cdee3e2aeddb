-- What tenants are told: an outbox. A replica takes what is due by a lease, and sends it until it arrives.
CREATE TABLE callback_deliveries (
    -- Also the `webhook-id` of every attempt.
    id BLOB NOT NULL PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    event TEXT NOT NULL,
    url TEXT NOT NULL,
    -- Stands for the host: deliveries to one host share its few places.
    lane INTEGER NOT NULL,
    body TEXT NOT NULL,
    -- pending, delivered or dead
    state TEXT NOT NULL,
    -- Since `begun_at`.
    attempts INTEGER NOT NULL,
    -- When it was made, or last sent anew: its time to arrive runs from here.
    begun_at TEXT NOT NULL,
    -- NULL once it is finished.
    next_attempt_at TEXT,
    -- The replica that has it, and until when: both or neither.
    owner BLOB,
    leased_until TEXT,
    created_at TEXT NOT NULL,
    last_status INTEGER,
    last_error TEXT,
    finished_at TEXT
) STRICT;
CREATE INDEX callback_deliveries_due ON callback_deliveries (next_attempt_at, lane) WHERE state = 'pending';
CREATE INDEX callback_deliveries_finished ON callback_deliveries (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX callback_deliveries_by_tenant ON callback_deliveries (tenant_id, id);

-- One row an attempt.
CREATE TABLE callback_attempts (
    delivery_id BLOB NOT NULL REFERENCES callback_deliveries (id) ON DELETE CASCADE,
    id BLOB NOT NULL,
    at TEXT NOT NULL,
    status INTEGER,
    error TEXT,
    duration_ms INTEGER NOT NULL,
    PRIMARY KEY (delivery_id, id)
) STRICT, WITHOUT ROWID;

-- What signs. Kept as it is: a hash signs nothing.
CREATE TABLE callback_secrets (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    secret TEXT NOT NULL,
    created_at TEXT NOT NULL,
    -- NULL for the one in use.
    expires_at TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX callback_secrets_by_tenant ON callback_secrets (tenant_id, id);

-- What was told last of a thing, so that of several replicas one tells it, and none again after a restart.
CREATE TABLE told_events (
    subject TEXT NOT NULL,
    event TEXT NOT NULL,
    -- What the thing was then, e.g. a digest.
    mark TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (subject, event)
) STRICT, WITHOUT ROWID;
