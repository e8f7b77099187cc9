-- What several mirrors know in common, version 1. Times are seconds since the epoch by this database's
-- clock, sizes are bytes. Digests are compact (`mirror.oci.compact`). Everything stands in a schema
-- of its own and is named with it: behind PgBouncer no search_path lasts.

CREATE SCHEMA IF NOT EXISTS mirror;

CREATE TABLE mirror.deployment (
  id          uuid PRIMARY KEY,
  version     integer NOT NULL,
  usable_from integer NOT NULL,            -- see `mirror.shared.migrating`
  created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE mirror.mirrors (              -- that belong to it, for `mirror shared status`
  name     text PRIMARY KEY,
  host     text NOT NULL,
  version  text NOT NULL,
  seen_at  timestamptz NOT NULL
);

CREATE TABLE mirror.upstreams (
  id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL UNIQUE
);

CREATE TABLE mirror.repositories (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  upstream integer NOT NULL REFERENCES mirror.upstreams (id),
  path     text COLLATE "C" NOT NULL UNIQUE -- <namespace>/<name>: in this order they are listed
);

CREATE TABLE mirror.digests (
  id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  digest bytea NOT NULL UNIQUE,
  seen   integer NOT NULL                  -- when it was last of use to anybody: in hours
);
CREATE INDEX digests_by_age ON mirror.digests (seen, id);

-- "This repository has this digest."
CREATE TABLE mirror.links (
  repository   bigint NOT NULL REFERENCES mirror.repositories (id),
  digest       bigint NOT NULL REFERENCES mirror.digests (id) ON DELETE CASCADE,
  size         bigint NOT NULL,
  is_confirmed boolean NOT NULL,           -- upstream has said so; else a manifest names it
  PRIMARY KEY (repository, digest)
);
CREATE INDEX links_by_digest ON mirror.links (digest);

CREATE TABLE mirror.sent (
  digest     bigint NOT NULL REFERENCES mirror.digests (id) ON DELETE CASCADE,
  upstream   integer NOT NULL REFERENCES mirror.upstreams (id),
  media_type text,
  PRIMARY KEY (digest, upstream)
);

CREATE TABLE mirror.edges (
  parent   bigint NOT NULL REFERENCES mirror.digests (id) ON DELETE CASCADE,
  position integer NOT NULL,
  child    bigint NOT NULL REFERENCES mirror.digests (id),
  PRIMARY KEY (parent, position)
);
CREATE INDEX edges_by_child ON mirror.edges (child);

CREATE SEQUENCE mirror.manifests_recorded;
CREATE TABLE mirror.manifests (
  digest   bigint PRIMARY KEY REFERENCES mirror.digests (id) ON DELETE CASCADE,
  recorded bigint NOT NULL DEFAULT nextval('mirror.manifests_recorded'), -- in this order, last
  children integer NOT NULL,
  content  bytea                           -- the manifest itself; none: nobody has sent it in
);
CREATE INDEX manifests_by_age ON mirror.manifests (recorded);

CREATE TABLE mirror.tags (
  repository  bigint NOT NULL REFERENCES mirror.repositories (id),
  name        text COLLATE "C" NOT NULL,
  digest      bigint NOT NULL REFERENCES mirror.digests (id) ON DELETE CASCADE,
  checked_at  double precision NOT NULL,   -- when upstream last said that this is the tag's digest
  is_fallback boolean NOT NULL,
  is_imported boolean NOT NULL,
  told_by     text NOT NULL,
  PRIMARY KEY (repository, name)
);
CREATE INDEX tags_by_digest ON mirror.tags (digest);

CREATE TABLE mirror.referrers (
  repository bigint NOT NULL REFERENCES mirror.repositories (id),
  digest     bigint NOT NULL REFERENCES mirror.digests (id) ON DELETE CASCADE,
  checked_at double precision NOT NULL,
  is_imported boolean NOT NULL,            -- by a bundle's word
  content    bytea NOT NULL,               -- upstream's list, all of its pages
  PRIMARY KEY (repository, digest)
);
CREATE INDEX referrers_by_age ON mirror.referrers (checked_at);
CREATE INDEX referrers_by_digest ON mirror.referrers (digest);

CREATE TABLE mirror.pins (                 -- of operators: images that no mirror evicts
  image     text COLLATE "C" PRIMARY KEY,
  platforms text NOT NULL,
  refresh   double precision NOT NULL
);

-- Who is asking upstream right now what a tag means: the others wait for what is found, or serve
-- what they have. Where the database crashes, they are asked by several for once.
CREATE UNLOGGED TABLE mirror.checks (
  path      text NOT NULL,
  tag       text NOT NULL,
  holder    text NOT NULL,
  until     timestamptz NOT NULL,
  is_silent boolean NOT NULL DEFAULT false, -- upstream did not answer: the turn is over
  PRIMARY KEY (path, tag)
);

-- For how long an endpoint wants to be left alone, and what it says of a quota.
CREATE TABLE mirror.pauses (
  upstream text NOT NULL,
  endpoint text NOT NULL,
  what     text NOT NULL,
  until    timestamptz NOT NULL,
  PRIMARY KEY (upstream, endpoint, what)
);

-- What all mirrors are to hear. Who was not listening reads what came meanwhile.
CREATE TABLE mirror.events (
  id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  origin text NOT NULL,                    -- the mirror that has said it: it knows
  event  text NOT NULL                     -- JSON (`mirror.shared.events`)
);
CREATE INDEX events_by_age ON mirror.events (at);
