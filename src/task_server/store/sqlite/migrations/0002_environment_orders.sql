-- Environments that workers are to have ready ahead of their tasks.

CREATE TABLE environment_orders (
  number    INTEGER PRIMARY KEY AUTOINCREMENT,
  request   TEXT NOT NULL,                 -- text of an environment request; empty: remove what is unused
  labels    TEXT NOT NULL,                 -- of the workers that are meant, JSON
  modules   TEXT NOT NULL,                 -- to import, JSON; empty: those of the packages
  round     INTEGER NOT NULL,              -- goes up whenever it is asked for again
  asked_at  REAL NOT NULL,
  until     REAL NOT NULL,                 -- wanted no longer
  UNIQUE (request, labels)
);

CREATE TABLE environment_order_states (
  number   INTEGER NOT NULL,
  worker   TEXT NOT NULL,                  -- its id
  round    INTEGER NOT NULL,               -- of which it tells
  state    TEXT NOT NULL,
  log      TEXT NOT NULL,
  told_at  REAL NOT NULL,
  PRIMARY KEY (number, worker)
) WITHOUT ROWID;
