-- What registries have said, version 1. Times are seconds since the epoch, sizes are bytes.
-- Digests are compact (`compact.py`): a byte for the algorithm, and the hash as it is.

CREATE TABLE upstreams (
  id   INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE repositories (
  id       INTEGER PRIMARY KEY,
  upstream INTEGER NOT NULL REFERENCES upstreams (id),
  path     TEXT NOT NULL UNIQUE            -- <namespace>/<name>: in this order they are listed
) STRICT;

-- "This repository has this digest." It holds for content that is not (or no longer) on disk, too.
CREATE TABLE links (
  repository   INTEGER NOT NULL REFERENCES repositories (id),
  digest       BLOB NOT NULL,
  size         INTEGER NOT NULL,
  is_confirmed INTEGER NOT NULL,           -- upstream has said so; else a manifest names it
  PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX links_by_digest ON links (digest);

-- "This upstream has sent these bytes, and they are what the digest says."
CREATE TABLE sent (
  digest     BLOB NOT NULL,
  upstream   INTEGER NOT NULL REFERENCES upstreams (id),
  media_type TEXT,                         -- what it called them; known for manifests only
  PRIMARY KEY (digest, upstream)
) STRICT, WITHOUT ROWID;

-- What a manifest names, in its order. Its own digest proves it, whoever has sent it.
CREATE TABLE edges (
  parent   BLOB NOT NULL,
  position INTEGER NOT NULL,
  child    BLOB NOT NULL,
  PRIMARY KEY (parent, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE tags (
  repository INTEGER NOT NULL REFERENCES repositories (id),
  name       TEXT NOT NULL,
  digest     BLOB NOT NULL,
  checked_at REAL NOT NULL,                -- when upstream last said that this is the tag's digest
  PRIMARY KEY (repository, name)
) STRICT, WITHOUT ROWID;

-- Upstream's answers to referrers requests, as they came.
CREATE TABLE referrers (
  repository    INTEGER NOT NULL REFERENCES repositories (id),
  digest        BLOB NOT NULL,
  artifact_type TEXT NOT NULL,             -- '' without a filter
  filtered      INTEGER NOT NULL,          -- upstream applied the filter
  content       BLOB NOT NULL,
  checked_at    REAL NOT NULL,
  PRIMARY KEY (repository, digest, artifact_type)
) STRICT, WITHOUT ROWID;

CREATE INDEX referrers_by_age ON referrers (checked_at);
