-- One row. Every transaction that writes takes it first, so that writers wait for each other here and nowhere else, and
-- revisions rise in the order of commits.
CREATE TABLE revision (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- Rises with every change that replicas must hear of.
    value INTEGER NOT NULL,
    -- The value at the last change of what is wanted of models.
    wishes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO revision (id, value, wishes) VALUES (1, 0, 0);

-- What is gone, so that replicas hear of it.
CREATE TABLE tombstones (
    -- tenant, key or token
    kind TEXT NOT NULL,
    id BLOB NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstones_by_revision ON tombstones (revision);

CREATE TABLE tenants (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    callback_url TEXT,
    -- A JSON array of texts.
    events TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- The revision of its last change.
    revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tenants_by_revision ON tenants (revision, id);

CREATE TABLE api_keys (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    secret_hash BLOB NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    -- The secret before a rotation and its end: both or neither.
    previous_hash BLOB,
    previous_until TEXT,
    -- JSON arrays of texts.
    scopes TEXT NOT NULL,
    models TEXT NOT NULL,
    -- What is NULL is not limited.
    requests_per_second REAL,
    burst INTEGER,
    images_per_day INTEGER,
    max_image_bytes INTEGER,
    limit_mode TEXT NOT NULL,
    expires_at TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    last_used_at TEXT,
    version INTEGER NOT NULL,
    revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, id);
CREATE INDEX api_keys_by_revision ON api_keys (revision, id);

CREATE TABLE admin_tokens (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    secret_hash BLOB NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    role TEXT NOT NULL,
    expires_at TEXT,
    created_at TEXT NOT NULL,
    last_used_at TEXT,
    revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX admin_tokens_by_revision ON admin_tokens (revision, id);

-- What operators want of models, whatever the models' folders say.
CREATE TABLE model_aliases (
    model TEXT NOT NULL,
    alias TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (model, alias)
) STRICT, WITHOUT ROWID;

CREATE TABLE unloaded_versions (
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (model, version)
) STRICT, WITHOUT ROWID;

-- Names are kept as they were: nothing here refers to rows that may go.
CREATE TABLE audit (
    id BLOB PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    token_id BLOB,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    -- JSON.
    value_before TEXT,
    value_after TEXT,
    address TEXT,
    request_id BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_by_time ON audit (at);

-- What keys have used of their days (UTC).
CREATE TABLE key_usage (
    day TEXT NOT NULL,
    key_id BLOB NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    images INTEGER NOT NULL,
    PRIMARY KEY (day, key_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX key_usage_by_key ON key_usage (key_id);
