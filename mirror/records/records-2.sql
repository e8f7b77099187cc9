-- Version 2: what refers to a digest is kept once, whole, and filtered when somebody asks; before,
-- every filter that a client could think of made a list of its own.

-- What a manifest names goes with it, once there is too much of that: the oldest first.

CREATE TABLE manifests (
  id       INTEGER PRIMARY KEY,            -- in the order in which they were last recorded
  digest   BLOB NOT NULL UNIQUE,
  children INTEGER NOT NULL
) STRICT;

INSERT INTO manifests (digest, children) SELECT parent, count(*) FROM edges GROUP BY parent;

CREATE INDEX edges_by_child ON edges (child);

CREATE TRIGGER manifest_goes AFTER DELETE ON manifests BEGIN
  DELETE FROM links
    WHERE is_confirmed = 0 AND digest IN (SELECT child FROM edges WHERE parent = OLD.digest)
      AND NOT EXISTS (
        SELECT 1 FROM edges AS e WHERE e.child = links.digest AND e.parent <> OLD.digest
      );
  DELETE FROM edges WHERE parent = OLD.digest;
END;

-- And a tag's meaning is known to be another's word than the registry's.

ALTER TABLE tags ADD COLUMN is_fallback INTEGER NOT NULL DEFAULT 0;

DROP INDEX referrers_by_age;
ALTER TABLE referrers RENAME TO old_referrers;

CREATE TABLE referrers (
  repository INTEGER NOT NULL REFERENCES repositories (id),
  digest     BLOB NOT NULL,
  checked_at REAL NOT NULL,
  size       INTEGER NOT NULL AS (length(content)) STORED,
  content    BLOB NOT NULL,                -- upstream's list, all of its pages
  PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX referrers_by_age ON referrers (checked_at, size);

INSERT INTO referrers (repository, digest, checked_at, content)
  SELECT repository, digest, checked_at, content FROM old_referrers WHERE artifact_type = '';

DROP TABLE old_referrers;
