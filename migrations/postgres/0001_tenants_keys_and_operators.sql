-- One row. Every transaction that writes takes it first, so that writers wait for each other here and nowhere else, and
-- revisions rise in the order of commits.
CREATE TABLE revision (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    -- Rises with every change that replicas must hear of.
    value BIGINT NOT NULL,
    -- The value at the last change of what is wanted of models.
    wishes BIGINT NOT NULL
);
INSERT INTO revision (id, value, wishes) VALUES (1, 0, 0);

-- What is gone, so that replicas hear of it.
CREATE TABLE tombstones (
    -- tenant, key or token
    kind TEXT NOT NULL,
    id UUID NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX tombstones_by_revision ON tombstones (revision);

CREATE TABLE tenants (
    id UUID PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    callback_url TEXT,
    -- A JSON array of texts.
    events TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    version BIGINT NOT NULL,
    -- The revision of its last change.
    revision BIGINT NOT NULL
);
CREATE INDEX tenants_by_revision ON tenants (revision, id);

CREATE TABLE api_keys (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    secret_hash BYTEA NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    -- The secret before a rotation and its end: both or neither.
    previous_hash BYTEA,
    previous_until TIMESTAMPTZ,
    -- JSON arrays of texts.
    scopes TEXT NOT NULL,
    models TEXT NOT NULL,
    -- What is NULL is not limited.
    requests_per_second DOUBLE PRECISION,
    burst BIGINT,
    images_per_day BIGINT,
    max_image_bytes BIGINT,
    limit_mode TEXT NOT NULL,
    expires_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    last_used_at TIMESTAMPTZ,
    version BIGINT NOT NULL,
    revision BIGINT NOT NULL
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, id);
CREATE INDEX api_keys_by_revision ON api_keys (revision, id);

CREATE TABLE admin_tokens (
    id UUID PRIMARY KEY,
    name TEXT NOT NULL,
    secret_hash BYTEA NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    role TEXT NOT NULL,
    expires_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL,
    last_used_at TIMESTAMPTZ,
    revision BIGINT NOT NULL
);
CREATE INDEX admin_tokens_by_revision ON admin_tokens (revision, id);

-- What operators want of models, whatever the models' folders say.
CREATE TABLE model_aliases (
    model TEXT NOT NULL,
    alias TEXT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (model, alias)
);

CREATE TABLE unloaded_versions (
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (model, version)
);

-- Names are kept as they were: nothing here refers to rows that may go.
CREATE TABLE audit (
    id UUID PRIMARY KEY,
    at TIMESTAMPTZ NOT NULL,
    actor TEXT NOT NULL,
    token_id UUID,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    -- JSON.
    value_before TEXT,
    value_after TEXT,
    address TEXT,
    request_id UUID
);
CREATE INDEX audit_by_time ON audit (at);

-- What keys have used of their days (UTC).
CREATE TABLE key_usage (
    day DATE NOT NULL,
    key_id UUID NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    images BIGINT NOT NULL,
    PRIMARY KEY (day, key_id)
);
CREATE INDEX key_usage_by_key ON key_usage (key_id);
