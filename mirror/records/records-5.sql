-- Version 5: what operators have asked for, over restarts (`wishes.py`): no registry can say it again.

CREATE TABLE pins (
  image     TEXT PRIMARY KEY,              -- whole: with its registry, and its tag or digest
  platforms TEXT NOT NULL,                 -- with commas between them; none: all
  refresh   REAL NOT NULL                  -- seconds
) STRICT, WITHOUT ROWID;

CREATE TABLE warmings (
  name     TEXT PRIMARY KEY,
  document BLOB NOT NULL                   -- what was asked for, and what has come of it (JSON)
) STRICT, WITHOUT ROWID;
