-- Whose deletion reaches a result is judged by when it was asked for, however late it came. NULL for what was not asked for,
-- and for what an earlier release has written.
ALTER TABLE callback_deliveries ADD COLUMN asked_at TIMESTAMPTZ;
-- How much waits to be told to a tenant.
CREATE INDEX callback_deliveries_pending ON callback_deliveries (tenant_id, id) WHERE state = 'pending';
