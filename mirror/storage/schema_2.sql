-- The catalog, version 2: what is on disk is in the index of its own (`index.sql`).

CREATE TABLE media_types (
  digest     TEXT PRIMARY KEY,             -- of a manifest
  media_type TEXT NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO media_types SELECT digest, media_type FROM blobs WHERE media_type IS NOT NULL;

DROP TRIGGER link_recorded;
DROP TABLE blobs;
DROP TABLE partials;
DROP TABLE totals;
