-- Who of several replicas does what one of them does for all, and until when.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    owner UUID NOT NULL,
    until TIMESTAMPTZ NOT NULL
);

-- What the arms of a canary did, summed over all replicas. A run is a canary from its beginning to its end.
CREATE TABLE canary_counts (
    run UUID NOT NULL,
    step BIGINT NOT NULL,
    arm TEXT NOT NULL,
    -- answers, errors, compared, agreed, or a bucket of the latencies: ms:<its number>
    figure TEXT NOT NULL,
    n BIGINT NOT NULL,
    PRIMARY KEY (run, step, arm, figure)
);

-- How often a version and its shadow named the same class, by the minute.
CREATE TABLE comparisons (
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    shadow BIGINT NOT NULL,
    minute TIMESTAMPTZ NOT NULL,
    compared BIGINT NOT NULL,
    agreed BIGINT NOT NULL,
    -- Pictures of the sample that the shadow was not run on.
    dropped BIGINT NOT NULL,
    PRIMARY KEY (model, version, shadow, minute)
);

-- The pictures on which a version and its shadow disagree most; as many of a pair as are shown.
CREATE TABLE disagreements (
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    shadow BIGINT NOT NULL,
    picture_digest TEXT NOT NULL,
    -- Whose picture it is, and the last request with it.
    tenant_id UUID NOT NULL,
    request_id UUID NOT NULL,
    "index" BIGINT NOT NULL,
    class TEXT NOT NULL,
    confidence DOUBLE PRECISION NOT NULL,
    shadow_class TEXT NOT NULL,
    shadow_confidence DOUBLE PRECISION NOT NULL,
    -- 0 to 1: how sure both were of their different classes.
    strength DOUBLE PRECISION NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (model, version, shadow, picture_digest)
);
CREATE INDEX disagreements_by_strength ON disagreements (model, version, shadow, strength);
CREATE INDEX disagreements_by_tenant ON disagreements (tenant_id);

-- What was predicted, once the prediction is found: what a label is right or wrong about. NULL until then.
ALTER TABLE feedback ADD COLUMN model TEXT;
ALTER TABLE feedback ADD COLUMN version BIGINT;
ALTER TABLE feedback ADD COLUMN arm TEXT;
ALTER TABLE feedback ADD COLUMN class TEXT;
-- It is looked for anew.
UPDATE feedback SET joined = false;
CREATE INDEX feedback_by_model ON feedback (model, day) WHERE joined;
CREATE INDEX feedback_unjoined ON feedback (day, request_id) WHERE NOT joined;
