-- The catalog, version 1. Times are seconds since the epoch, sizes are bytes.

CREATE TABLE repositories (
  id        INTEGER PRIMARY KEY,
  namespace TEXT NOT NULL,
  name      TEXT NOT NULL,
  UNIQUE (namespace, name)
) STRICT;

-- What is on disk. media_type is known for manifests only.
CREATE TABLE blobs (
  digest      TEXT PRIMARY KEY,
  size        INTEGER NOT NULL,
  media_type  TEXT,
  accessed_at REAL NOT NULL,
  leaving     INTEGER NOT NULL DEFAULT 0   -- eviction has begun; finished at the next start if need be
) STRICT, WITHOUT ROWID;

-- Manifests are small and dear (a counted request upstream): they go last.
CREATE INDEX blobs_by_access ON blobs (media_type IS NOT NULL, accessed_at);
CREATE INDEX blobs_leaving ON blobs (leaving) WHERE leaving;

-- "This repository may serve this digest": a manifest recorded for it refers to it, or upstream
-- has said so. Holds for content that is not (or no longer) on disk, too.
CREATE TABLE links (
  repository INTEGER NOT NULL REFERENCES repositories (id),
  digest     TEXT NOT NULL,
  size       INTEGER NOT NULL,
  PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX links_by_digest ON links (digest);

CREATE TABLE tags (
  repository INTEGER NOT NULL REFERENCES repositories (id),
  name       TEXT NOT NULL,
  digest     TEXT NOT NULL,
  checked_at REAL NOT NULL,                -- when upstream last said that this is the tag's digest
  PRIMARY KEY (repository, name)
) STRICT, WITHOUT ROWID;

-- Upstream's answers to referrers requests, as they came.
CREATE TABLE referrers (
  repository    INTEGER NOT NULL REFERENCES repositories (id),
  digest        TEXT NOT NULL,
  artifact_type TEXT NOT NULL,             -- '' without a filter
  filtered      INTEGER NOT NULL,          -- upstream applied the filter
  content       BLOB NOT NULL,
  checked_at    REAL NOT NULL,
  PRIMARY KEY (repository, digest, artifact_type)
) STRICT, WITHOUT ROWID;

CREATE INDEX referrers_by_age ON referrers (checked_at);

-- Downloads begun and not recorded as blobs yet. The row outlives the rename that completes the
-- blob, so that after a crash the next start knows where to look.
CREATE TABLE partials (
  digest     TEXT PRIMARY KEY,
  touched_at REAL NOT NULL                 -- when it was begun or continued
) STRICT, WITHOUT ROWID;

-- Kept by triggers: a start must not cost in proportion to what is stored.
CREATE TABLE totals (
  blobs            INTEGER NOT NULL,
  bytes            INTEGER NOT NULL,
  referenced_bytes INTEGER NOT NULL,       -- what the links would take without deduplication
  adopted          INTEGER NOT NULL        -- what was on disk before this catalog was is in it
) STRICT;

INSERT INTO totals VALUES (0, 0, 0, 0);

CREATE TRIGGER blob_recorded AFTER INSERT ON blobs BEGIN
  UPDATE totals SET
    blobs = blobs + 1,
    bytes = bytes + NEW.size,
    referenced_bytes = referenced_bytes
      + NEW.size * (SELECT count(*) FROM links WHERE digest = NEW.digest);
END;

CREATE TRIGGER blob_resized AFTER UPDATE OF size ON blobs BEGIN
  UPDATE totals SET
    bytes = bytes + NEW.size - OLD.size,
    referenced_bytes = referenced_bytes
      + (NEW.size - OLD.size) * (SELECT count(*) FROM links WHERE digest = NEW.digest);
END;

CREATE TRIGGER blob_forgotten AFTER DELETE ON blobs BEGIN
  UPDATE totals SET
    blobs = blobs - 1,
    bytes = bytes - OLD.size,
    referenced_bytes = referenced_bytes
      - OLD.size * (SELECT count(*) FROM links WHERE digest = OLD.digest);
END;

CREATE TRIGGER link_recorded AFTER INSERT ON links BEGIN
  UPDATE totals SET referenced_bytes = referenced_bytes
    + coalesce((SELECT size FROM blobs WHERE digest = NEW.digest), 0);
END;
