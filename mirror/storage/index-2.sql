-- Version 2: what a blob is worth (`worth.py`) says who goes first, and not only when it was used.

ALTER TABLE blobs ADD COLUMN is_superseded INTEGER NOT NULL DEFAULT 0;  -- no tag means it any more
ALTER TABLE blobs ADD COLUMN is_broken INTEGER NOT NULL DEFAULT 0;      -- no image of it is whole
ALTER TABLE blobs ADD COLUMN score REAL NOT NULL DEFAULT 0;             -- half-lives since the epoch
ALTER TABLE blobs ADD COLUMN rank REAL NOT NULL DEFAULT 0;              -- the lowest goes first

UPDATE blobs SET score = asked(NULL, accessed_at);
UPDATE blobs SET rank = rank(score, size, 0, 0);

DROP INDEX blobs_by_access;
CREATE INDEX blobs_by_rank ON blobs (rank);

-- The latest time at which anything was used.
ALTER TABLE totals ADD COLUMN latest REAL NOT NULL DEFAULT 0;
UPDATE totals SET latest = (SELECT coalesce(max(accessed_at), 0) FROM blobs);

-- What has gone, for when it comes again: by the first eight bytes of its digest.
CREATE TABLE remembered (
  name          INTEGER PRIMARY KEY,
  score         REAL NOT NULL,
  is_superseded INTEGER NOT NULL
) STRICT;

CREATE INDEX remembered_by_score ON remembered (score);
