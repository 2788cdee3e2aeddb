-- What tenants are told: an outbox. A replica takes what is due by a lease, and sends it until it arrives.
CREATE TABLE callback_deliveries (
    -- Also the `webhook-id` of every attempt.
    id UUID NOT NULL PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    event TEXT NOT NULL,
    url TEXT NOT NULL,
    -- Stands for the host: deliveries to one host share its few places.
    lane BIGINT NOT NULL,
    body TEXT NOT NULL,
    -- pending, delivered or dead
    state TEXT NOT NULL,
    -- Since `begun_at`.
    attempts BIGINT NOT NULL,
    -- When it was made, or last sent anew: its time to arrive runs from here.
    begun_at TIMESTAMPTZ NOT NULL,
    -- NULL once it is finished.
    next_attempt_at TIMESTAMPTZ,
    -- The replica that has it, and until when: both or neither.
    owner UUID,
    leased_until TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL,
    last_status BIGINT,
    last_error TEXT,
    finished_at TIMESTAMPTZ
);
CREATE INDEX callback_deliveries_due ON callback_deliveries (next_attempt_at, lane) WHERE state = 'pending';
CREATE INDEX callback_deliveries_finished ON callback_deliveries (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX callback_deliveries_by_tenant ON callback_deliveries (tenant_id, id);

-- One row an attempt.
CREATE TABLE callback_attempts (
    delivery_id UUID NOT NULL REFERENCES callback_deliveries (id) ON DELETE CASCADE,
    id UUID NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    status BIGINT,
    error TEXT,
    duration_ms BIGINT NOT NULL,
    PRIMARY KEY (delivery_id, id)
);

-- What signs. Kept as it is: a hash signs nothing.
CREATE TABLE callback_secrets (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    secret TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    -- NULL for the one in use.
    expires_at TIMESTAMPTZ
);
CREATE INDEX callback_secrets_by_tenant ON callback_secrets (tenant_id, id);

-- What was told last of a thing, so that of several replicas one tells it, and none again after a restart.
CREATE TABLE told_events (
    subject TEXT NOT NULL,
    event TEXT NOT NULL,
    -- What the thing was then, e.g. a digest.
    mark TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (subject, event)
);
