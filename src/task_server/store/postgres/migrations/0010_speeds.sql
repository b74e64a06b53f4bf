-- How fast workers are, as the mean of log(measured / predicted): scheduling/placement.py.
ALTER TABLE workers ADD COLUMN runs     int NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN slowness float8 NOT NULL DEFAULT 0;
