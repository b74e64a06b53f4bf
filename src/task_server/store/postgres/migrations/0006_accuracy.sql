-- How far off estimates were, and run times by environment: scheduling/accuracy.py and pace.py.
ALTER TABLE function_statistics ADD COLUMN accuracy bytea NOT NULL DEFAULT '';
ALTER TABLE function_statistics ADD COLUMN pace     bytea NOT NULL DEFAULT '';
