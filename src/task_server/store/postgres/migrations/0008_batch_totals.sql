CREATE TABLE batch_totals (                -- what was said at submit that a batch would cost
  function   integer NOT NULL,
  batch      bigint NOT NULL,
  low        double precision NOT NULL,                  -- core-seconds, p10
  predicted  double precision NOT NULL,                  -- p50
  high       double precision NOT NULL,                  -- p90
  seconds    double precision,                           -- what it took; NULL: it is not done, or not added up
  PRIMARY KEY (function, batch)
);
CREATE INDEX batch_totals_open ON batch_totals (batch) WHERE seconds IS NULL;
