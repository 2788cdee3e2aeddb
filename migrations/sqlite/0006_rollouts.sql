-- How a model's traffic is shared, where that is not `latest`.
CREATE TABLE model_rollouts (
    model TEXT NOT NULL PRIMARY KEY,
    -- JSON.
    rollout TEXT NOT NULL
) STRICT;
