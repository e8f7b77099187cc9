-- Version 7: what refers to a digest may have come in a bundle, too (`mirror import`).

ALTER TABLE referrers ADD COLUMN is_imported INTEGER NOT NULL DEFAULT 0;
