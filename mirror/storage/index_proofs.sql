-- Version 3: when the content of each blob was last proved by its digest, in days since the epoch.
-- 0: never; it was found on disk, and is proved before anybody is served it. What version 2 had was
-- proved when it was written, nobody knows when.
ALTER TABLE blobs ADD COLUMN proved_on INTEGER NOT NULL DEFAULT 1;
