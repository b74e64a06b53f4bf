CREATE TABLE packages (                    -- wheels that users uploaded; their content is a blob
  package          INTEGER PRIMARY KEY AUTOINCREMENT,
  owner            INTEGER NOT NULL,
  name             TEXT NOT NULL,          -- normalised
  version          TEXT NOT NULL,          -- normalised
  filename         TEXT NOT NULL,
  digest           TEXT NOT NULL,          -- of the blob, sha256:HEX
  size             INTEGER NOT NULL,
  requires_python  TEXT,
  metadata         TEXT NOT NULL,          -- the wheel's METADATA, for resolving
  uploaded_at      REAL NOT NULL,
  UNIQUE (owner, filename)
);
CREATE INDEX packages_name ON packages (name);
CREATE INDEX packages_digest ON packages (digest);
