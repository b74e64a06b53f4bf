CREATE TABLE refreshes (                   -- requests whose lock was made anew on purpose
  request       text PRIMARY KEY,          -- text of an environment request
  environment   text NOT NULL,             -- digest of the lock that new tasks get
  refreshed_at  double precision NOT NULL
);
