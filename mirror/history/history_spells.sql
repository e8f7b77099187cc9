-- Version 2: when endpoints could not be asked, and when the mirror ran.

CREATE TABLE spells (
  id       INTEGER PRIMARY KEY,
  upstream TEXT NOT NULL,                  -- '': the mirror itself
  endpoint TEXT NOT NULL,
  state    TEXT NOT NULL,                  -- 'down', 'paused', 'running'
  began    REAL NOT NULL,
  ended    REAL NOT NULL,                  -- as far as it was seen to go on
  why      TEXT
) STRICT;

CREATE INDEX spells_by_end ON spells (ended);
