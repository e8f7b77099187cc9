-- Blobs in the bucket, the turns to fetch them, and the pieces that they consist of.

-- Each time that anybody gets a turn it has another number, the larger the later.
CREATE SEQUENCE mirror.epochs;

CREATE TABLE mirror.blobs (
  blob bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  upstream text NOT NULL,  -- which has sent it, or does: until it is proved, it is for that one only
  digest text NOT NULL,
  epoch bigint NOT NULL,  -- of the turn: who records anything has to have it
  holder text,  -- the mirror that has the turn; NULL: nobody
  until timestamptz NOT NULL,  -- its lease, by this clock
  moved_at timestamptz NOT NULL DEFAULT now(),  -- when it last got anywhere
  size bigint CHECK (size >= 0),  -- in bytes; NULL: nobody has said
  proved_at timestamptz,  -- all pieces are there, and together have the digest
  used_at timestamptz NOT NULL DEFAULT now(),
  leaving_at timestamptz,  -- no new reader gets it; its objects go after a grace
  UNIQUE (upstream, digest)
);

CREATE INDEX blobs_by_digest ON mirror.blobs (digest) WHERE proved_at IS NOT NULL;
CREATE INDEX blobs_by_use ON mirror.blobs (used_at) INCLUDE (size)
  WHERE proved_at IS NOT NULL AND leaving_at IS NULL;
CREATE INDEX blobs_leaving ON mirror.blobs (leaving_at) WHERE leaving_at IS NOT NULL;
CREATE INDEX blobs_coming ON mirror.blobs (until) WHERE proved_at IS NULL;

CREATE TABLE mirror.pieces (
  blob bigint NOT NULL REFERENCES mirror.blobs ON DELETE CASCADE,
  start bigint NOT NULL CHECK (start >= 0),
  stop bigint NOT NULL CHECK (stop > start),
  key text NOT NULL,
  epoch bigint NOT NULL,
  PRIMARY KEY (blob, start)
);

CREATE UNIQUE INDEX pieces_by_key ON mirror.pieces (key);

-- What one mirror does for all, and when it was last begun.
CREATE TABLE mirror.chores (
  chore text PRIMARY KEY,
  begun_at timestamptz NOT NULL
);
