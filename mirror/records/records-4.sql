-- Version 4: what a tag means may have come in a bundle (`mirror import`), and not from upstream.

ALTER TABLE tags ADD COLUMN is_imported INTEGER NOT NULL DEFAULT 0;
