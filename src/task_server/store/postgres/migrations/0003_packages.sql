CREATE TABLE packages (                      -- wheels that users uploaded; their content is a blob
  package          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  owner            integer NOT NULL,
  name             text NOT NULL,            -- normalised
  version          text NOT NULL,            -- normalised
  filename         text NOT NULL,
  digest           text NOT NULL,            -- of the blob, sha256:HEX
  size             bigint NOT NULL,
  requires_python  text,
  metadata         text NOT NULL,            -- the wheel's METADATA, for resolving
  uploaded_at      double precision NOT NULL,
  UNIQUE (owner, filename)
);
CREATE INDEX packages_name ON packages (name);
CREATE INDEX packages_digest ON packages (digest);
