-- The index of a node's disk, version 1. Times are seconds since the epoch, sizes are bytes.

-- What is on disk, complete and proved.
CREATE TABLE blobs (
  digest      TEXT PRIMARY KEY,
  size        INTEGER NOT NULL,
  is_manifest INTEGER NOT NULL,
  accessed_at REAL NOT NULL,
  leaving     INTEGER NOT NULL DEFAULT 0   -- deletion has begun; finished at the next start if need be
) STRICT, WITHOUT ROWID;

-- What was used longest ago, of manifests and of all else.
CREATE INDEX blobs_by_access ON blobs (is_manifest, accessed_at);
CREATE INDEX blobs_leaving ON blobs (leaving) WHERE leaving;

-- Downloads begun and not recorded as blobs yet. The row outlives the rename that completes the
-- blob, so that after a crash the next start knows where to look.
CREATE TABLE partials (
  upstream   TEXT NOT NULL,                -- bytes that are not proved are its alone
  digest     TEXT NOT NULL,
  touched_at REAL NOT NULL,                -- when it was begun or continued
  PRIMARY KEY (upstream, digest)
) STRICT, WITHOUT ROWID;

-- Kept by triggers: a start must not cost in proportion to what is stored.
CREATE TABLE totals (
  blobs   INTEGER NOT NULL,
  bytes   INTEGER NOT NULL,
  adopted INTEGER NOT NULL                 -- what was on disk before this index was is in it
) STRICT;

INSERT INTO totals VALUES (0, 0, 0);

CREATE TRIGGER blob_recorded AFTER INSERT ON blobs BEGIN
  UPDATE totals SET blobs = blobs + 1, bytes = bytes + NEW.size;
END;

CREATE TRIGGER blob_resized AFTER UPDATE OF size ON blobs BEGIN
  UPDATE totals SET bytes = bytes + NEW.size - OLD.size;
END;

CREATE TRIGGER blob_forgotten AFTER DELETE ON blobs BEGIN
  UPDATE totals SET blobs = blobs - 1, bytes = bytes - OLD.size;
END;
