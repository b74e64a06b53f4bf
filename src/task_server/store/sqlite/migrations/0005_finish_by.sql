ALTER TABLE task_extras ADD COLUMN finish_by REAL;   -- when the task's owner wants it done
