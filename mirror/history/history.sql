-- Version 1: pulls for a while, hours and days for years, and where blobs came from.

CREATE TABLE names (
  id       INTEGER PRIMARY KEY,
  upstream TEXT NOT NULL,
  path     TEXT NOT NULL,                  -- of a repository, with its registry; '': all others
  UNIQUE (upstream, path)
) STRICT;

CREATE TABLE pulls (
  id        INTEGER PRIMARY KEY,           -- in the order in which they were first noted
  began     REAL NOT NULL,
  seconds   REAL NOT NULL,
  name      INTEGER NOT NULL REFERENCES names (id),
  client    TEXT,                          -- NULL: not kept
  agent     TEXT NOT NULL,
  reference TEXT,
  digest    TEXT,
  was       TEXT,                          -- what the tag meant before
  result    TEXT NOT NULL,
  why       TEXT NOT NULL,
  requests  INTEGER NOT NULL,
  failed    INTEGER NOT NULL,
  served    INTEGER NOT NULL,              -- bytes
  fetched   INTEGER NOT NULL,              -- bytes
  endpoint  TEXT
) STRICT;

CREATE INDEX pulls_by_name ON pulls (name);
CREATE INDEX pulls_by_digest ON pulls (digest);

CREATE TABLE totals (
  span    INTEGER NOT NULL,                -- seconds: an hour, or a day
  start   INTEGER NOT NULL,                -- seconds since the epoch
  name    INTEGER NOT NULL REFERENCES names (id),
  pulls   INTEGER NOT NULL,
  hits    INTEGER NOT NULL,                -- requests
  misses  INTEGER NOT NULL,
  failed  INTEGER NOT NULL,
  served  INTEGER NOT NULL,                -- bytes; so the following
  fetched INTEGER NOT NULL,
  used    INTEGER NOT NULL,                -- of what was served: what had to be fetched for it
  unused  INTEGER NOT NULL,                -- of what was fetched: what nobody has been served yet
  PRIMARY KEY (span, start, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE arrivals (
  id       INTEGER PRIMARY KEY,
  name     INTEGER NOT NULL REFERENCES names (id),
  digest   TEXT NOT NULL,
  began    REAL NOT NULL,
  seconds  REAL NOT NULL,
  size     INTEGER,
  fetched  INTEGER NOT NULL,
  used     INTEGER NOT NULL,
  resumes  INTEGER NOT NULL,
  endpoint TEXT NOT NULL                   -- several: the one that has sent most, first
) STRICT;

CREATE INDEX arrivals_by_digest ON arrivals (digest);
