-- Take over what an older mirror's catalog (attached as `old`) holds, into records that are empty.
-- packed() is the compact form of a digest, NULL for what is none; usable() a media type, or NULL.

INSERT INTO upstreams (name) SELECT DISTINCT namespace FROM old.repositories;

INSERT INTO repositories (id, upstream, path)
  SELECT o.id, u.id, o.namespace || '/' || o.name
  FROM old.repositories AS o JOIN upstreams AS u ON u.name = o.namespace;

INSERT INTO links
  SELECT repository, packed(digest), size, 0 FROM old.links WHERE packed(digest) IS NOT NULL;

INSERT INTO tags (repository, name, digest, checked_at)
  SELECT repository, name, packed(digest), checked_at FROM old.tags
  WHERE packed(digest) IS NOT NULL;

UPDATE links SET is_confirmed = 1
  WHERE EXISTS (
    SELECT 1 FROM tags AS t WHERE t.repository = links.repository AND t.digest = links.digest
  );

INSERT INTO referrers (repository, digest, checked_at, content)
  SELECT repository, packed(digest), checked_at, content
  FROM old.referrers WHERE artifact_type = '' AND packed(digest) IS NOT NULL;

INSERT INTO sent
  SELECT packed(b.digest), min(r.upstream), usable(b.media_type)
  FROM old.blobs AS b
    JOIN old.links AS l ON l.digest = b.digest
    JOIN repositories AS r ON r.id = l.repository
  WHERE packed(b.digest) IS NOT NULL
  GROUP BY b.digest HAVING count(DISTINCT r.upstream) = 1;
