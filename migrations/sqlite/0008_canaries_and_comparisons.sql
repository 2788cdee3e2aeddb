-- Who of several replicas does what one of them does for all, and until when.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    owner BLOB NOT NULL,
    until TEXT NOT NULL
) STRICT;

-- What the arms of a canary did, summed over all replicas. A run is a canary from its beginning to its end.
CREATE TABLE canary_counts (
    run BLOB NOT NULL,
    step INTEGER NOT NULL,
    arm TEXT NOT NULL,
    -- answers, errors, compared, agreed, or a bucket of the latencies: ms:<its number>
    figure TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (run, step, arm, figure)
) STRICT;

-- How often a version and its shadow named the same class, by the minute.
CREATE TABLE comparisons (
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    shadow INTEGER NOT NULL,
    minute TEXT NOT NULL,
    compared INTEGER NOT NULL,
    agreed INTEGER NOT NULL,
    -- Pictures of the sample that the shadow was not run on.
    dropped INTEGER NOT NULL,
    PRIMARY KEY (model, version, shadow, minute)
) STRICT;

-- The pictures on which a version and its shadow disagree most; as many of a pair as are shown.
CREATE TABLE disagreements (
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    shadow INTEGER NOT NULL,
    picture_digest TEXT NOT NULL,
    -- Whose picture it is, and the last request with it.
    tenant_id BLOB NOT NULL,
    request_id BLOB NOT NULL,
    "index" INTEGER NOT NULL,
    class TEXT NOT NULL,
    confidence REAL NOT NULL,
    shadow_class TEXT NOT NULL,
    shadow_confidence REAL NOT NULL,
    -- 0 to 1: how sure both were of their different classes.
    strength REAL NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (model, version, shadow, picture_digest)
) STRICT;
CREATE INDEX disagreements_by_strength ON disagreements (model, version, shadow, strength);
CREATE INDEX disagreements_by_tenant ON disagreements (tenant_id);

-- What was predicted, once the prediction is found: what a label is right or wrong about. NULL until then.
ALTER TABLE feedback ADD COLUMN model TEXT;
ALTER TABLE feedback ADD COLUMN version INTEGER;
ALTER TABLE feedback ADD COLUMN arm TEXT;
ALTER TABLE feedback ADD COLUMN class TEXT;
-- It is looked for anew.
UPDATE feedback SET joined = 0;
CREATE INDEX feedback_by_model ON feedback (model, day) WHERE joined;
CREATE INDEX feedback_unjoined ON feedback (day, request_id) WHERE NOT joined;
