-- Version 6: what is pinned is not among what may go, and is weighed as it changes: to make room,
-- nobody looks through it.

ALTER TABLE blobs ADD COLUMN pins INTEGER NOT NULL DEFAULT 0;           -- images that it is pinned for
ALTER TABLE totals ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;        -- of `taken`, if not leaving

CREATE INDEX pins_by_digest ON pins (digest);

UPDATE blobs SET pins = (SELECT count(*) FROM pins WHERE digest = blobs.digest)
  WHERE digest IN (SELECT digest FROM pins);
UPDATE totals SET pinned = (
  SELECT coalesce(sum((size + block - 1) / block * block), 0) FROM blobs WHERE pins AND NOT leaving);

DROP INDEX blobs_by_rank;
CREATE INDEX blobs_by_rank ON blobs (rank) WHERE NOT leaving AND NOT pins;

CREATE TRIGGER pin_recorded AFTER INSERT ON pins BEGIN
  UPDATE blobs SET pins = pins + 1 WHERE digest = NEW.digest;
END;

CREATE TRIGGER pin_forgotten AFTER DELETE ON pins BEGIN
  UPDATE blobs SET pins = pins - 1 WHERE digest = OLD.digest;
END;

CREATE TRIGGER pinned_blob_recorded AFTER INSERT ON blobs
  WHEN EXISTS (SELECT 1 FROM pins WHERE digest = NEW.digest)
BEGIN
  UPDATE blobs SET pins = (SELECT count(*) FROM pins WHERE digest = NEW.digest)
    WHERE digest = NEW.digest;
END;

CREATE TRIGGER pinned_blob_changed AFTER UPDATE OF size, leaving, pins ON blobs
  WHEN NEW.pins OR OLD.pins
BEGIN
  UPDATE totals SET pinned = pinned
    + iif(NEW.pins AND NOT NEW.leaving, (NEW.size + block - 1) / block * block, 0)
    - iif(OLD.pins AND NOT OLD.leaving, (OLD.size + block - 1) / block * block, 0);
END;

CREATE TRIGGER pinned_blob_forgotten AFTER DELETE ON blobs WHEN OLD.pins AND NOT OLD.leaving BEGIN
  UPDATE totals SET pinned = pinned - (OLD.size + block - 1) / block * block;
END;
