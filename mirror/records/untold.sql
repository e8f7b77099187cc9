-- What this mirror has learnt and not told the others yet, version 1: in the order in which it was.

CREATE TABLE untold (
  id    INTEGER PRIMARY KEY AUTOINCREMENT,
  entry BLOB NOT NULL                      -- MessagePack (`untold.py`)
) STRICT;

CREATE TABLE known (
  name  TEXT PRIMARY KEY,                  -- "deployment", "name", "heard"
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
