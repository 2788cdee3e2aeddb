-- Classifications that nobody waits for. A replica takes what is due by a lease.
CREATE TABLE jobs (
    -- The request's.
    id UUID NOT NULL PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    -- Refers to no row: what was taken in is done, also when its key is gone.
    key_id UUID NOT NULL,
    client_request_id TEXT,
    trace_id TEXT,
    model TEXT NOT NULL,
    -- JSON: what else was chosen.
    terms TEXT NOT NULL,
    callback_url TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    -- queued, running, done or failed
    state TEXT NOT NULL,
    -- When it may be taken: of a running one, the end of its lease. NULL once it has ended.
    due_at TIMESTAMPTZ,
    -- Who has it.
    lease UUID,
    -- How often it was taken and not given back.
    attempts BIGINT NOT NULL,
    -- Bytes of its pictures that have no result yet.
    waiting_bytes BIGINT NOT NULL,
    -- A JSON array, once it has ended.
    results TEXT,
    ended_at TIMESTAMPTZ
);
CREATE INDEX jobs_due ON jobs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_due_by_tenant ON jobs (tenant_id, due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_by_tenant ON jobs (tenant_id, id);
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE job_pictures (
    job_id UUID NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    -- The picture's place in the request.
    "index" BIGINT NOT NULL,
    -- JSON, as it may hold any character.
    filename TEXT,
    bytes BIGINT NOT NULL,
    -- One of the two: the file, or, as JSON, what became of it.
    content BYTEA,
    result TEXT,
    PRIMARY KEY (job_id, "index")
);
-- Pictures are compressed already.
ALTER TABLE job_pictures ALTER COLUMN content SET STORAGE EXTERNAL;

-- Tenants with jobs that have not ended, and when one of each was taken last: whose turn is the longest ago is next.
CREATE TABLE job_turns (
    tenant_id UUID PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    taken_at TIMESTAMPTZ NOT NULL
);

-- The clients' own names for what they sent: what comes again under one is not done again.
CREATE TABLE job_keys (
    tenant_id UUID NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    request_id UUID NOT NULL,
    -- SHA-256 of what was asked.
    fingerprint BYTEA NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX job_keys_by_time ON job_keys (at);
