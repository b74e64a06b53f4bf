-- Times are Unix seconds of the server's clock. States and encodings: store/states.py.

CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE servers (
  server  INTEGER PRIMARY KEY,             -- a file has one server
  name    TEXT NOT NULL
);
INSERT INTO servers VALUES (1, '');

CREATE TABLE owners (
  owner   INTEGER PRIMARY KEY,
  name    TEXT UNIQUE,                     -- NULL: known by its token alone
  weight  REAL NOT NULL DEFAULT 1
);

CREATE TABLE tokens (
  token       INTEGER PRIMARY KEY,
  digest      BLOB NOT NULL UNIQUE,        -- SHA-256 of the token
  kind        TEXT NOT NULL CHECK (kind IN ('user', 'worker', 'admin')),
  owner       INTEGER NOT NULL REFERENCES owners,
  name        TEXT,
  created_at  REAL NOT NULL,
  revoked_at  REAL
);

CREATE TABLE environment_requests (
  request      INTEGER PRIMARY KEY AUTOINCREMENT,
  text         TEXT NOT NULL UNIQUE,       -- canonical: Python version and requirements
  python       TEXT NOT NULL,
  environment  TEXT REFERENCES environments,
  state        INTEGER NOT NULL,           -- 0 to lock, 1 locked, 2 failed
  error        TEXT,
  tries        INTEGER NOT NULL DEFAULT 0,
  try_at       REAL NOT NULL DEFAULT 0     -- not before, after an index error
);
CREATE INDEX environment_requests_open ON environment_requests (try_at) WHERE state = 0;

CREATE TABLE environments (
  environment  TEXT PRIMARY KEY,           -- digest of the lock
  python       TEXT NOT NULL,
  lock         TEXT NOT NULL,
  created_at   REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE functions (
  function      INTEGER PRIMARY KEY AUTOINCREMENT,
  owner         INTEGER NOT NULL,          -- 0: by name, the same for everybody
  distribution  TEXT NOT NULL,
  name          TEXT NOT NULL,             -- module:qualname as asked for
  unused_since  REAL,                      -- no kind is of it; its statistics are kept for a while
  UNIQUE (owner, distribution, name)
);

CREATE TABLE function_statistics (         -- exact, folded in by the transaction that ends the attempts
  function         INTEGER NOT NULL REFERENCES functions,
  server           INTEGER NOT NULL,
  calls            INTEGER NOT NULL,       -- successes
  failures         INTEGER NOT NULL,
  first_seconds    REAL NOT NULL,          -- run time of the first call
  run_seconds      REAL NOT NULL,          -- sums
  queue_seconds    REAL NOT NULL,
  install_seconds  REAL NOT NULL,
  import_seconds   REAL NOT NULL,
  cpu_seconds      REAL NOT NULL,
  peak_bytes       INTEGER NOT NULL,       -- largest seen
  histogram        BLOB NOT NULL,          -- run times of successes, scheduling/histogram.py
  PRIMARY KEY (function, server)
) WITHOUT ROWID;

CREATE TABLE lanes (
  lane        INTEGER PRIMARY KEY AUTOINCREMENT,
  owner       INTEGER NOT NULL,
  priority    INTEGER NOT NULL,
  requires    TEXT NOT NULL,
  sandbox     INTEGER NOT NULL,
  python      TEXT NOT NULL,
  plain       INTEGER NOT NULL,            -- 1: may go to a plain worker
  request     INTEGER NOT NULL REFERENCES environment_requests,
  limit_keys  TEXT NOT NULL,
  UNIQUE (owner, priority, requires, sandbox, python, plain, request, limit_keys)
);

CREATE TABLE kinds (                       -- a task without its id and arguments
  kind      INTEGER PRIMARY KEY AUTOINCREMENT,
  digest    BLOB NOT NULL UNIQUE,
  owner     INTEGER NOT NULL,
  function  INTEGER NOT NULL REFERENCES functions,
  lane      INTEGER NOT NULL REFERENCES lanes,
  spec      BLOB NOT NULL,                 -- contract.KindSpec, MessagePack
  keep      REAL,                          -- seconds after its end; -1: until read; NULL: as set
  pickle    TEXT                           -- blob of a function by value
);
CREATE INDEX kinds_pickle ON kinds (pickle) WHERE pickle IS NOT NULL;

CREATE TABLE batches (
  batch      INTEGER PRIMARY KEY AUTOINCREMENT,
  id         BLOB NOT NULL UNIQUE,
  digest     BLOB,                         -- of the request that made it
  owner      INTEGER NOT NULL,
  name       TEXT,
  is_open    INTEGER NOT NULL,
  expected   INTEGER,
  in_order   INTEGER NOT NULL DEFAULT 0,   -- 1: starts in submit order
  due_at     REAL,
  total      INTEGER NOT NULL DEFAULT 0,
  succeeded  INTEGER NOT NULL DEFAULT 0,
  failed     INTEGER NOT NULL DEFAULT 0,
  cancelled  INTEGER NOT NULL DEFAULT 0,
  expired    INTEGER NOT NULL DEFAULT 0,
  purged     INTEGER NOT NULL DEFAULT 0,   -- of these, how many are no longer given out
  created_at REAL NOT NULL
);

CREATE VIEW batch_progress AS SELECT * FROM batches;

CREATE TABLE tasks (
  number          INTEGER PRIMARY KEY,
  id              BLOB NOT NULL UNIQUE,
  digest          BLOB,                    -- of the body as sent; tells a repeat from another task
  kind            INTEGER NOT NULL,
  batch           INTEGER,
  position        INTEGER,                 -- in its batch
  lane            INTEGER NOT NULL,
  state           INTEGER NOT NULL,        -- no CHECK: it alone cost a third of an insert
  submitted_at    REAL NOT NULL,
  ready_at        REAL NOT NULL,
  due_at          REAL NOT NULL,
  tie             REAL NOT NULL DEFAULT 0,
  predicted       REAL NOT NULL,           -- seconds, p50 as of the submit; negative: a guess, not known
  predicted_high  REAL NOT NULL,           -- p90
  attempt         INTEGER NOT NULL DEFAULT 0,
  session         INTEGER,                 -- of the last lease
  reply           INTEGER,                 -- number of the exchange whose reply carried the lease
  secret          BLOB,                    -- of the present lease, or of the one that ended the task
  started_at      REAL,
  server          INTEGER NOT NULL DEFAULT 1, -- that ended it
  n               INTEGER,                 -- place among those that this server ended
  ended_at        REAL,
  first_read      REAL,                    -- when the outcome was first given out, or a little later
  encoding        INTEGER,                 -- of the outcome; 5: payloads are purged, the row stays a day
  payload         BLOB,                    -- arguments as they came; NULL: in payloads
  outcome         BLOB,                    -- answer or error as it came; NULL: in payloads
  usage           BLOB                     -- contract.Used, MessagePack
);
CREATE INDEX tasks_ready   ON tasks (lane, due_at, tie, number) WHERE state = 0;
CREATE INDEX tasks_running ON tasks (session) WHERE state = 2;
CREATE INDEX tasks_batch   ON tasks (batch, position) WHERE batch IS NOT NULL;
CREATE INDEX tasks_ended   ON tasks (n) WHERE n IS NOT NULL;

CREATE TABLE payloads (                    -- between 1 and 64 KiB
  number  INTEGER NOT NULL,
  part    INTEGER NOT NULL,                -- 0 arguments, 1 outcome
  data    BLOB NOT NULL,
  PRIMARY KEY (number, part)
) WITHOUT ROWID;

CREATE TABLE logs (
  number   INTEGER NOT NULL,
  attempt  INTEGER NOT NULL,
  log      BLOB NOT NULL,
  PRIMARY KEY (number, attempt)
) WITHOUT ROWID;

CREATE TABLE task_extras (                 -- only for tasks that need one of these
  number         INTEGER PRIMARY KEY,
  run_after      REAL,
  start_by       REAL,
  delayed_until  REAL,
  pending        INTEGER NOT NULL DEFAULT 0, -- how many tasks it waits for; then it has no delayed_until
  generation     INTEGER NOT NULL DEFAULT 0,
  errors         INTEGER NOT NULL DEFAULT 0,
  crashes        INTEGER NOT NULL DEFAULT 0,
  undelivered    INTEGER NOT NULL DEFAULT 0,
  releases       INTEGER NOT NULL DEFAULT 0,
  unstarted      INTEGER NOT NULL DEFAULT 0,
  leased_until   REAL                      -- a plain worker's lease has its own end
);
CREATE INDEX task_extras_delayed ON task_extras (delayed_until) WHERE delayed_until IS NOT NULL;
CREATE INDEX task_extras_plain ON task_extras (leased_until) WHERE leased_until IS NOT NULL;
CREATE INDEX task_extras_start ON task_extras (start_by) WHERE start_by IS NOT NULL;
CREATE INDEX task_extras_pending ON task_extras (number) WHERE pending > 0;

CREATE TABLE workers (
  worker     INTEGER PRIMARY KEY AUTOINCREMENT,
  id         TEXT NOT NULL UNIQUE,
  token      INTEGER NOT NULL,             -- 0: without authentication
  name       TEXT NOT NULL,
  facts      BLOB NOT NULL,                -- its last join, MessagePack
  joined_at  REAL NOT NULL,
  seen_at    REAL NOT NULL
);

CREATE TABLE sessions (
  session      INTEGER PRIMARY KEY AUTOINCREMENT,
  id           TEXT NOT NULL UNIQUE,
  worker       INTEGER NOT NULL,
  is_plain     INTEGER NOT NULL,
  alive_until  REAL NOT NULL,
  number       INTEGER NOT NULL,
  seen         INTEGER NOT NULL,
  is_over      INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX sessions_worker ON sessions (worker) WHERE is_over = 0;

CREATE TABLE worker_environments (
  worker       INTEGER NOT NULL,
  environment  TEXT NOT NULL,
  state        TEXT NOT NULL,
  broken_until REAL,
  PRIMARY KEY (worker, environment)
) WITHOUT ROWID;

CREATE TABLE past_attempts (               -- those that ended without ending their task
  lease       BLOB PRIMARY KEY,            -- its secret
  task        INTEGER NOT NULL,
  worker      INTEGER NOT NULL,
  session     INTEGER NOT NULL,
  attempt     INTEGER NOT NULL,
  generation  INTEGER NOT NULL,
  outcome_ok  INTEGER,                     -- NULL: none told
  outcome_digest BLOB
) WITHOUT ROWID;
CREATE INDEX past_attempts_task ON past_attempts (task, worker);

CREATE TABLE past_outcomes (               -- of generations that a manual retry followed
  number      INTEGER NOT NULL,
  generation  INTEGER NOT NULL,
  attempt     INTEGER NOT NULL,
  state       INTEGER NOT NULL,
  encoding    INTEGER,
  outcome     BLOB,
  started_at  REAL,
  ended_at    REAL NOT NULL,
  PRIMARY KEY (number, generation)
) WITHOUT ROWID;

CREATE TABLE dependencies (                -- which a task waits for still
  task   INTEGER NOT NULL,
  after  INTEGER NOT NULL,
  PRIMARY KEY (task, after)
) WITHOUT ROWID;
CREATE INDEX dependencies_after ON dependencies (after, task);
CREATE TABLE submit_keys (
  owner  INTEGER NOT NULL,
  key    TEXT NOT NULL,
  digest BLOB NOT NULL,
  reply  BLOB NOT NULL,                    -- ids given, 16 bytes each; a batch's first if any
  batch  BLOB,
  until  REAL NOT NULL,
  PRIMARY KEY (owner, key)
) WITHOUT ROWID;
CREATE INDEX submit_keys_until ON submit_keys (until);
CREATE TABLE tombstones (id BLOB PRIMARY KEY, owner INTEGER NOT NULL) WITHOUT ROWID; -- deleted tasks
CREATE TABLE outbox (event INTEGER PRIMARY KEY, at REAL NOT NULL, target TEXT NOT NULL, body BLOB NOT NULL);

CREATE TABLE kind_load (                   -- one row a server, written only by it, summed when read
  kind     INTEGER NOT NULL,
  server   INTEGER NOT NULL,
  queued   INTEGER NOT NULL,               -- and delayed
  stored   INTEGER NOT NULL DEFAULT 0,     -- rows in tasks
  PRIMARY KEY (kind, server)
) WITHOUT ROWID;
CREATE TABLE shares (owner INTEGER NOT NULL, server INTEGER NOT NULL, charged_seconds REAL NOT NULL, PRIMARY KEY (owner, server)) WITHOUT ROWID;

CREATE TABLE blobs (
  digest      TEXT NOT NULL,               -- sha256 in hex
  owner       INTEGER NOT NULL,            -- 0: of a worker's answer, until its task names it
  size        INTEGER NOT NULL,
  created_at  REAL NOT NULL,               -- last stored, or named by a submit
  PRIMARY KEY (digest, owner)
) WITHOUT ROWID;

CREATE TABLE blob_uses (                   -- tasks whose arguments or outcome name the blob
  digest  TEXT NOT NULL,
  number  INTEGER NOT NULL,
  PRIMARY KEY (digest, number)
) WITHOUT ROWID;
CREATE INDEX blob_uses_number ON blob_uses (number);

CREATE TABLE blob_deletions (              -- their rows are gone, their content goes next
  digest   TEXT PRIMARY KEY,
  is_done  INTEGER NOT NULL,
  at       REAL NOT NULL                   -- begun, or done
) WITHOUT ROWID;

CREATE TABLE leader (name TEXT PRIMARY KEY, server TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE function_models (function INTEGER PRIMARY KEY, version TEXT, summary BLOB, state BLOB, trained_to BLOB);
