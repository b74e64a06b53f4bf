-- How much memory calls took at their peak: scheduling/memory.py.
ALTER TABLE function_statistics ADD COLUMN peaks BLOB NOT NULL DEFAULT x'';
