-- How fast workers are, as the mean of log(measured / predicted): scheduling/placement.py.
ALTER TABLE workers ADD COLUMN runs     INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN slowness REAL NOT NULL DEFAULT 0;
