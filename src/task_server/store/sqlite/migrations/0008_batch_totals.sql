CREATE TABLE batch_totals (                -- what was said at submit that a batch would cost
  function   INTEGER NOT NULL,
  batch      INTEGER NOT NULL,
  low        REAL NOT NULL,                  -- core-seconds, p10
  predicted  REAL NOT NULL,                  -- p50
  high       REAL NOT NULL,                  -- p90
  seconds    REAL,                           -- what it took; NULL: it is not done, or not added up
  PRIMARY KEY (function, batch)
) WITHOUT ROWID;
CREATE INDEX batch_totals_open ON batch_totals (batch) WHERE seconds IS NULL;
