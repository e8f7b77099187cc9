-- Version 3: each digest is written down once, with when it was last of use, and everywhere else
-- is a number. What is known of a digest goes with it (`forgetting.py`); bytes where text was.

DROP TRIGGER manifest_goes;
DROP INDEX links_by_digest;
DROP INDEX edges_by_child;
DROP INDEX referrers_by_age;
ALTER TABLE links RENAME TO old_links;
ALTER TABLE sent RENAME TO old_sent;
ALTER TABLE edges RENAME TO old_edges;
ALTER TABLE tags RENAME TO old_tags;
ALTER TABLE manifests RENAME TO old_manifests;
ALTER TABLE referrers RENAME TO old_referrers;

CREATE TABLE digests (
  id     INTEGER PRIMARY KEY,
  digest BLOB NOT NULL UNIQUE,             -- compact (`mirror.oci.compact`)
  seen   INTEGER NOT NULL                  -- when it was last recorded, or found on disk: in hours
) STRICT;

CREATE TABLE links (
  repository   INTEGER NOT NULL REFERENCES repositories (id),
  digest       INTEGER NOT NULL REFERENCES digests (id) ON DELETE CASCADE,
  size         INTEGER NOT NULL,
  is_confirmed INTEGER NOT NULL,           -- upstream has said so; else a manifest names it
  PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE sent (
  digest     INTEGER NOT NULL REFERENCES digests (id) ON DELETE CASCADE,
  upstream   INTEGER NOT NULL REFERENCES upstreams (id),
  media_type ANY,                          -- a number for the usual ones (`sqlite.py`), or text
  PRIMARY KEY (digest, upstream)
) STRICT, WITHOUT ROWID;

CREATE TABLE edges (
  parent   INTEGER NOT NULL REFERENCES digests (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  child    INTEGER NOT NULL REFERENCES digests (id),
  PRIMARY KEY (parent, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE manifests (
  id       INTEGER PRIMARY KEY,            -- in the order in which they were last recorded
  digest   INTEGER NOT NULL UNIQUE REFERENCES digests (id) ON DELETE CASCADE,
  children INTEGER NOT NULL
) STRICT;

CREATE TABLE tags (
  repository  INTEGER NOT NULL REFERENCES repositories (id),
  name        TEXT NOT NULL,
  digest      INTEGER NOT NULL REFERENCES digests (id) ON DELETE CASCADE,
  checked_at  REAL NOT NULL,               -- when upstream last said that this is the tag's digest
  is_fallback INTEGER NOT NULL,            -- by another's word than the registry's
  PRIMARY KEY (repository, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE referrers (
  repository INTEGER NOT NULL REFERENCES repositories (id),
  digest     INTEGER NOT NULL REFERENCES digests (id) ON DELETE CASCADE,
  checked_at REAL NOT NULL,
  size       INTEGER NOT NULL AS (length(content)) STORED,
  content    BLOB NOT NULL,                -- upstream's list, all of its pages
  PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;

-- Manifests first: what they name follows them in a walk by age.
INSERT INTO digests (digest, seen)
  SELECT digest, CAST(strftime('%s', 'now') AS INTEGER) / 3600 FROM old_manifests ORDER BY id;
INSERT INTO digests (digest, seen)
  SELECT digest, CAST(strftime('%s', 'now') AS INTEGER) / 3600 FROM (
    SELECT digest FROM old_links UNION SELECT digest FROM old_sent UNION SELECT digest FROM old_tags
    UNION SELECT digest FROM old_referrers
    UNION SELECT parent FROM old_edges UNION SELECT child FROM old_edges
  ) WHERE true ON CONFLICT DO NOTHING;

INSERT INTO links SELECT o.repository, d.id, o.size, o.is_confirmed
  FROM old_links AS o JOIN digests AS d ON d.digest = o.digest ORDER BY o.repository, d.id;
INSERT INTO sent
  SELECT d.id, o.upstream, CASE o.media_type
    WHEN 'application/vnd.oci.image.manifest.v1+json' THEN 1
    WHEN 'application/vnd.oci.image.index.v1+json' THEN 2
    WHEN 'application/vnd.docker.distribution.manifest.v2+json' THEN 3
    WHEN 'application/vnd.docker.distribution.manifest.list.v2+json' THEN 4
    ELSE o.media_type END
  FROM old_sent AS o JOIN digests AS d ON d.digest = o.digest ORDER BY d.id;
INSERT INTO edges SELECT p.id, o.position, c.id
  FROM old_edges AS o JOIN digests AS p ON p.digest = o.parent
    JOIN digests AS c ON c.digest = o.child
  ORDER BY p.id, o.position;
INSERT INTO manifests SELECT o.id, d.id, o.children
  FROM old_manifests AS o JOIN digests AS d ON d.digest = o.digest;
INSERT INTO tags SELECT o.repository, o.name, d.id, o.checked_at, o.is_fallback
  FROM old_tags AS o JOIN digests AS d ON d.digest = o.digest;
INSERT INTO referrers (repository, digest, checked_at, content)
  SELECT o.repository, d.id, o.checked_at, o.content
  FROM old_referrers AS o JOIN digests AS d ON d.digest = o.digest;

DROP TABLE old_links;
DROP TABLE old_sent;
DROP TABLE old_edges;
DROP TABLE old_tags;
DROP TABLE old_manifests;
DROP TABLE old_referrers;

CREATE INDEX digests_by_age ON digests (seen);
CREATE INDEX links_by_digest ON links (digest);
CREATE INDEX edges_by_child ON edges (child);
CREATE INDEX tags_by_digest ON tags (digest);
CREATE INDEX referrers_by_age ON referrers (checked_at, size);
CREATE INDEX referrers_by_digest ON referrers (digest);

-- Where manifests name too much, the oldest go with what only they name. Where the digest itself
-- goes, what it names has an age of its own.
CREATE TRIGGER manifest_goes AFTER DELETE ON manifests
  WHEN EXISTS (SELECT 1 FROM digests WHERE id = OLD.digest)
BEGIN
  DELETE FROM links
    WHERE is_confirmed = 0 AND digest IN (SELECT child FROM edges WHERE parent = OLD.digest)
      AND NOT EXISTS (
        SELECT 1 FROM edges AS e WHERE e.child = links.digest AND e.parent <> OLD.digest
      );
  DELETE FROM edges WHERE parent = OLD.digest;
END;
