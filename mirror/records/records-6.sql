-- Version 6: since when a tag has meant what it means, and which endpoint has last said so.

ALTER TABLE tags ADD COLUMN since REAL;                          -- NULL: nobody has written it down
ALTER TABLE tags ADD COLUMN told_by TEXT NOT NULL DEFAULT '';    -- an endpoint's name; '': not known
