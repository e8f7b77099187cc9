-- Version 2: digests are compact (`mirror.oci.compact`): 33 bytes where the text took 71.

DROP TRIGGER blob_recorded;
DROP TRIGGER blob_resized;
DROP TRIGGER blob_forgotten;
DROP INDEX blobs_by_access;
DROP INDEX blobs_leaving;
ALTER TABLE blobs RENAME TO old_blobs;
ALTER TABLE partials RENAME TO old_partials;

CREATE TABLE blobs (
  digest      BLOB PRIMARY KEY,
  size        INTEGER NOT NULL,
  is_manifest INTEGER NOT NULL,
  accessed_at REAL NOT NULL,
  leaving     INTEGER NOT NULL DEFAULT 0   -- deletion has begun; finished at the next start if need be
) STRICT, WITHOUT ROWID;

CREATE TABLE partials (
  upstream   TEXT NOT NULL,                -- bytes that are not proved are its alone
  digest     BLOB NOT NULL,
  touched_at REAL NOT NULL,                -- when it was begun or continued
  PRIMARY KEY (upstream, digest)
) STRICT, WITHOUT ROWID;

INSERT INTO blobs SELECT packed(digest), size, is_manifest, accessed_at, leaving FROM old_blobs
  WHERE packed(digest) IS NOT NULL;
INSERT INTO partials SELECT upstream, packed(digest), touched_at FROM old_partials
  WHERE packed(digest) IS NOT NULL;
UPDATE totals SET (blobs, bytes) = (SELECT count(*), coalesce(sum(size), 0) FROM blobs);
DROP TABLE old_blobs;
DROP TABLE old_partials;

CREATE INDEX blobs_by_access ON blobs (is_manifest, accessed_at);
CREATE INDEX blobs_leaving ON blobs (leaving) WHERE leaving;

CREATE TRIGGER blob_recorded AFTER INSERT ON blobs BEGIN
  UPDATE totals SET blobs = blobs + 1, bytes = bytes + NEW.size;
END;

CREATE TRIGGER blob_resized AFTER UPDATE OF size ON blobs BEGIN
  UPDATE totals SET bytes = bytes + NEW.size - OLD.size;
END;

CREATE TRIGGER blob_forgotten AFTER DELETE ON blobs BEGIN
  UPDATE totals SET blobs = blobs - 1, bytes = bytes - OLD.size;
END;
