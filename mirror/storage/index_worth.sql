-- Version 5: what a blob is worth (`worth.py`) says who goes first, and not only when it was used.

ALTER TABLE blobs ADD COLUMN is_superseded INTEGER NOT NULL DEFAULT 0;  -- no tag means it any more
ALTER TABLE blobs ADD COLUMN is_broken INTEGER NOT NULL DEFAULT 0;      -- no image of it is whole
ALTER TABLE blobs ADD COLUMN slowness REAL NOT NULL DEFAULT 1;          -- of where it came from
ALTER TABLE blobs ADD COLUMN score REAL NOT NULL DEFAULT 0;             -- half-lives since the epoch
ALTER TABLE blobs ADD COLUMN rank REAL NOT NULL DEFAULT 0;              -- the lowest goes first

UPDATE blobs SET score = asked(NULL, accessed_at);
UPDATE blobs SET rank = rank(score, size);

DROP INDEX blobs_by_access;
CREATE INDEX blobs_by_rank ON blobs (rank);

-- The latest time at which anything was used.
ALTER TABLE totals ADD COLUMN latest REAL NOT NULL DEFAULT 0;
UPDATE totals SET latest = (SELECT coalesce(max(accessed_at), 0) FROM blobs);

-- And what the disk gives for all of them: whole blocks, of a size that the file system says.
ALTER TABLE totals ADD COLUMN block INTEGER NOT NULL DEFAULT 1;
ALTER TABLE totals ADD COLUMN taken INTEGER NOT NULL DEFAULT 0;
UPDATE totals SET taken = bytes;

DROP TRIGGER blob_recorded;
DROP TRIGGER blob_resized;
DROP TRIGGER blob_forgotten;

CREATE TRIGGER blob_recorded AFTER INSERT ON blobs BEGIN
  UPDATE totals SET blobs = blobs + 1, bytes = bytes + NEW.size,
    taken = taken + (NEW.size + block - 1) / block * block;
END;

CREATE TRIGGER blob_resized AFTER UPDATE OF size ON blobs WHEN NEW.size <> OLD.size BEGIN
  UPDATE totals SET bytes = bytes + NEW.size - OLD.size,
    taken = taken + (NEW.size + block - 1) / block * block - (OLD.size + block - 1) / block * block;
END;

CREATE TRIGGER blob_forgotten AFTER DELETE ON blobs BEGIN
  UPDATE totals SET blobs = blobs - 1, bytes = bytes - OLD.size,
    taken = taken - (OLD.size + block - 1) / block * block;
END;

-- What has gone, for when it comes again: by the first eight bytes of its digest.
CREATE TABLE remembered (
  name          INTEGER PRIMARY KEY,
  score         REAL NOT NULL,
  is_superseded INTEGER NOT NULL
) STRICT;

CREATE INDEX remembered_by_score ON remembered (score);
