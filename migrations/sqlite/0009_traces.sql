-- The span of the request that asked for it, as `traceparent` writes it: what is done later belongs to the same trace.
ALTER TABLE jobs ADD COLUMN traceparent TEXT;
ALTER TABLE callback_deliveries ADD COLUMN traceparent TEXT;
