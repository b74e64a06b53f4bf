ALTER TABLE task_extras ADD COLUMN finish_by double precision;  -- when the task's owner wants it done
