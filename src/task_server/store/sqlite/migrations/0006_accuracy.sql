-- How far off estimates were, and run times by environment: scheduling/accuracy.py and pace.py.
ALTER TABLE function_statistics ADD COLUMN accuracy BLOB NOT NULL DEFAULT x'';
ALTER TABLE function_statistics ADD COLUMN pace     BLOB NOT NULL DEFAULT x'';
