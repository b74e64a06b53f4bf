-- A batch's unstarted tasks were cancelled while that attempt was with a worker: given back, it ends its task.
ALTER TABLE task_extras ADD COLUMN withdrawn_attempt INTEGER;
