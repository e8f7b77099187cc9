"""One SQLite file: opened, migrated, read, and written in as few transactions as there can be.

Writes from everywhere are gathered into one transaction at a time, so that fifty fills that end
together cost one commit. A write returns when it is committed, and is not undone when its caller is
cancelled. What `is_durable` is synced too; the rest is with the next such commit, or when SQLite
copies it into the file: a power cut may undo the last of it, in whole transactions. What SQLite
raises comes out as StoreError, in the operator's words.

A file that is damaged is set aside when it is opened, and made anew: a mirror serves without it
what it can ask for anew, and says what it cannot (`Schema.loss`). Nothing is taken over from it:
rows are tied by numbers, which are used again, so that a page of other times could let a repository
have what it may not. Where damage shows later, that is noted beside it, for the next start; until
then, what needs the damaged part of it fails.
"""

from mirror.sqlite.database import Database, Extent
from mirror.sqlite.errors import DiskFull, explained
from mirror.sqlite.schema import Schema
from mirror.sqlite.writer import Row, Statement

__all__ = ["Database", "DiskFull", "Extent", "Row", "Schema", "Statement", "explained"]
