CREATE TABLE refreshes (                   -- requests whose lock was made anew on purpose
  request       TEXT PRIMARY KEY,          -- text of an environment request
  environment   TEXT NOT NULL,             -- digest of the lock that new tasks get
  refreshed_at  REAL NOT NULL
) WITHOUT ROWID;
