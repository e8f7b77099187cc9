-- Take over what an older mirror's catalog (attached as `old`) holds, into records that are empty.
-- packed() is the compact form of a digest, NULL for what is none; usable() a media type, or NULL.

INSERT INTO upstreams (name) SELECT DISTINCT namespace FROM old.repositories;

INSERT INTO repositories (id, upstream, path)
  SELECT o.id, u.id, o.namespace || '/' || o.name
  FROM old.repositories AS o JOIN upstreams AS u ON u.name = o.namespace;

INSERT INTO digests (digest, seen)
  SELECT packed(digest), CAST(strftime('%s', 'now') AS INTEGER) / 3600 FROM (
    SELECT digest FROM old.tags UNION SELECT digest FROM old.links
    UNION SELECT digest FROM old.referrers
  ) WHERE packed(digest) IS NOT NULL;

INSERT INTO links
  SELECT o.repository, d.id, o.size, 0
  FROM old.links AS o JOIN digests AS d ON d.digest = packed(o.digest);

INSERT INTO tags (repository, name, digest, checked_at, is_fallback)
  SELECT o.repository, o.name, d.id, o.checked_at, 0
  FROM old.tags AS o JOIN digests AS d ON d.digest = packed(o.digest);

UPDATE links SET is_confirmed = 1
  WHERE EXISTS (
    SELECT 1 FROM tags AS t WHERE t.repository = links.repository AND t.digest = links.digest
  );

INSERT INTO referrers (repository, digest, checked_at, content)
  SELECT o.repository, d.id, o.checked_at, o.content
  FROM old.referrers AS o JOIN digests AS d ON d.digest = packed(o.digest)
  WHERE o.artifact_type = '';

INSERT INTO sent
  SELECT d.id, min(r.upstream), usable(b.media_type)
  FROM old.blobs AS b
    JOIN digests AS d ON d.digest = packed(b.digest)
    JOIN old.links AS l ON l.digest = b.digest
    JOIN repositories AS r ON r.id = l.repository
  GROUP BY d.id HAVING count(DISTINCT r.upstream) = 1;
