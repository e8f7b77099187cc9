-- Version 4: what may not be evicted, and for the sake of which image it may not.
CREATE TABLE pins (
  image  TEXT NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (image, digest)
) STRICT, WITHOUT ROWID;
