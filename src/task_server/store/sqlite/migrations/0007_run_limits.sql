-- Of the last lease of a task whose timeout is "auto": how long the run may take, and why.
ALTER TABLE task_extras ADD COLUMN limit_seconds REAL;
ALTER TABLE task_extras ADD COLUMN limit_why TEXT;
