"""The statements of `mirror.history.sqlite`. Values come by question marks; the text is ours."""

# ruff: noqa: S608 - all that is ever put into a statement's text is ours

from collections.abc import Collection, Sequence

from mirror.history.ports import DAY, HOUR, Arrival, Pull, PullFilter, Spell, TotalsFilter

Values = tuple[object, ...]

PULL = (
    "id", "began", "seconds", "upstream", "repository", "client", "agent", "reference", "digest",
    "was", "result", "why", "requests", "failed", "served", "fetched", "endpoint",
)  # fmt: skip
ARRIVAL = (
    "id", "upstream", "repository", "digest", "began", "seconds", "size", "fetched", "used",
    "resumes", "endpoint",
)  # fmt: skip
SPELL = ("id", "upstream", "endpoint", "state", "began", "ended", "why")
_FIGURES = ("pulls", "hits", "misses", "failed", "served", "fetched", "used", "unused")

_NAME = "(SELECT id FROM names WHERE upstream = ? AND path = ?)"
_NAMED = {"upstream": "n.upstream", "repository": "n.path"}


def _put(table: str, columns: Sequence[str]) -> str:
    """Insert a row, or put it in the place of the one of its number."""
    plain = [column for column in columns if column not in _NAMED]
    values = ", ".join("?" for _ in plain)
    return f"REPLACE INTO {table} (name, {', '.join(plain)}) VALUES ({_NAME}, {values})"


def _get(table: str, columns: Sequence[str]) -> str:
    told = ", ".join(_NAMED.get(column, f"t.{column}") for column in columns)
    return f"SELECT {told} FROM {table} AS t JOIN names AS n ON n.id = t.name"


ADD_NAME = "INSERT OR IGNORE INTO names (upstream, path) VALUES (?, ?)"
PUT_PULL = _put("pulls", PULL)
PUT_ARRIVAL = _put("arrivals", ARRIVAL)
ADD = (
    f"INSERT INTO totals (span, start, name, {', '.join(_FIGURES)})"
    f" VALUES ({HOUR}, ?, {_NAME}, {', '.join('?' for _ in _FIGURES)})"
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{it} = {it} + excluded.{it}' for it in _FIGURES)}"
)

NEXT = (
    "SELECT (SELECT ifnull(max(id), 0) + 1 FROM pulls),"
    " (SELECT ifnull(max(id), 0) + 1 FROM arrivals)"
)
NAMES = "SELECT path FROM names WHERE path <> '' ORDER BY id DESC LIMIT ?"
UNUSED = f"{_get('arrivals', ARRIVAL)} WHERE t.used < t.fetched ORDER BY t.id DESC LIMIT ?"

PUT_SPELL = f"REPLACE INTO spells ({', '.join(SPELL)}) VALUES ({', '.join('?' for _ in SPELL)})"
NEXT_SPELL = "SELECT ifnull(max(id), 0) + 1 FROM spells"
SPELLS = (
    f"SELECT {', '.join(SPELL)} FROM spells WHERE ended >= ? AND id < ? ORDER BY id DESC LIMIT ?"
)
LONGEST_SPELLS = (
    f"SELECT {', '.join(SPELL)} FROM spells WHERE ended >= ? AND (state = 'running') = ?"
    " ORDER BY ended - began DESC, id DESC LIMIT ?"
)
SUM_DOWN = (
    "SELECT upstream, endpoint, count(*), sum(min(ended, ?2) - max(began, ?1)) FROM spells"
    " WHERE state = 'down' AND ended >= ?1 GROUP BY 1, 2"
)
OLD_SPELLS_GO = (  # when the mirror ran is kept apart: one such may go on while thousands come
    "DELETE FROM spells WHERE ended < ?1"
    " OR (state <> 'running' AND id <= (SELECT max(id) FROM spells) - ?2)"
    " OR (state = 'running' AND id <="
    "  (SELECT id FROM spells WHERE state = 'running' ORDER BY id DESC LIMIT 1 OFFSET ?2))"
)

FORGET_CLIENTS = "UPDATE pulls SET client = NULL WHERE client IS NOT NULL"
COUNTS = (
    "SELECT (SELECT count(*) FROM pulls), (SELECT count(*) FROM arrivals),"
    " (SELECT count(*) FROM totals)"
)


def _go(table: str, condition: str = "") -> str:
    return (
        f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} {condition} ORDER BY id LIMIT ?)"
    )


OLD_PULLS_GO = _go("pulls", "WHERE began + seconds < ?")
OLD_ARRIVALS_GO = _go("arrivals", "WHERE began + seconds < ?")
SOME_PULLS_GO = _go("pulls")
SOME_ARRIVALS_GO = _go("arrivals")
OLD_TOTALS_GO = (
    "DELETE FROM totals WHERE (span, start, name) IN"
    " (SELECT span, start, name FROM totals WHERE start + span < ? LIMIT ?)"
)
SOME_TOTALS_GO = (
    "DELETE FROM totals WHERE (span, start, name) IN"
    " (SELECT span, start, name FROM totals ORDER BY start LIMIT ?)"
)
FOLD = (
    f"INSERT INTO totals (span, start, name, {', '.join(_FIGURES)})"
    f" SELECT {DAY}, start / {DAY} * {DAY}, name, {', '.join(f'sum({it})' for it in _FIGURES)}"
    f" FROM totals WHERE span = {HOUR} AND start < ? GROUP BY start / {DAY}, name"
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{it} = {it} + excluded.{it}' for it in _FIGURES)}"
)
FOLDED_GO = f"DELETE FROM totals WHERE span = {HOUR} AND start < ?"
UNNAMED_GO = (
    "DELETE FROM names WHERE id NOT IN (SELECT name FROM pulls)"
    " AND id NOT IN (SELECT name FROM totals) AND id NOT IN (SELECT name FROM arrivals)"
)


def _not_of(hidden: Collection[str]) -> str:
    """A condition that nothing of these upstreams meets."""
    return f"n.upstream NOT IN ({_marks(hidden)})"


def _path_but(hidden: Collection[str]) -> str:
    """A repository's path, but for those of these upstreams: they are not told apart."""
    return f"iif(n.upstream IN ({_marks(hidden)}), '', n.path)"


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" for _ in values)


def arrivals(digest: str | None, hidden: Collection[str]) -> tuple[str, Values]:
    """Those of a blob, or all; the last question mark is how many."""
    where, values = (" AND t.digest = ?", (digest,)) if digest is not None else ("", ())
    return (
        f"{_get('arrivals', ARRIVAL)} WHERE {_not_of(hidden)}{where} ORDER BY t.id DESC LIMIT ?"
    ), (*hidden, *values)


def wasted(since: float, before: float, hidden: Collection[str]) -> tuple[str, Values]:
    """Arrivals of which not all was of use; the last question mark is how many."""
    return (
        f"{_get('arrivals', ARRIVAL)} WHERE t.used < t.fetched AND t.began >= ?"
        f" AND t.began + t.seconds < ? AND {_not_of(hidden)}"
        " ORDER BY t.fetched - t.used DESC LIMIT ?"
    ), (since, before, *hidden)


def again(since: float, hidden: Collection[str]) -> tuple[str, Values]:
    """Blobs that came more than once; the last question mark is how many."""
    return (
        "SELECT digest, upstream, path, size, arrivals, fetched FROM ("
        " SELECT t.digest, n.upstream, n.path, max(t.id), max(ifnull(t.size, t.fetched)) AS size,"
        " count(*) AS arrivals, sum(t.fetched) AS fetched FROM arrivals AS t"
        f" JOIN names AS n ON n.id = t.name WHERE t.began >= ? AND {_not_of(hidden)}"
        " GROUP BY t.digest) WHERE fetched > size ORDER BY fetched - size DESC LIMIT ?"
    ), (since, *hidden)


def costs(since: float, hidden: Collection[str]) -> tuple[str, Values]:
    """What repositories cost; the last question mark is how many."""
    return (
        f"SELECT n.upstream, {_path_but(hidden)} AS path, sum(pulls), sum(served), sum(fetched),"
        " sum(used), sum(unused)"
        " FROM totals AS t JOIN names AS n ON n.id = t.name WHERE t.start + t.span > ?"
        " GROUP BY 1, 2 HAVING sum(fetched) > 0 ORDER BY sum(fetched) DESC LIMIT ?"
    ), (*hidden, since)


def sums_of(repositories: Sequence[str], since: float) -> tuple[str, Values]:
    """What was pulled of repositories."""
    return (
        "SELECT n.path, sum(t.pulls), sum(t.served), sum(t.fetched)"
        " FROM names AS n JOIN totals AS t ON t.name = n.id"
        f" WHERE n.path IN ({_marks(repositories)}) AND t.start + t.span > ? GROUP BY 1"
    ), (*repositories, since)


def sums_of_images(repository: str, digests: Sequence[str], since: float) -> tuple[str, Values]:
    """What was pulled of a repository's images."""
    return (
        "SELECT t.digest, count(*), sum(t.served), sum(t.fetched)"
        " FROM pulls AS t JOIN names AS n ON n.id = t.name"
        f" WHERE t.digest IN ({_marks(digests)}) AND n.path = ? AND t.began + t.seconds >= ?"
        " GROUP BY 1"
    ), (*digests, repository, since)


def of_pull(pull: Pull) -> Values:
    """Its row, for PUT_PULL."""
    plain = [getattr(pull, column) for column in PULL if column not in _NAMED]
    return (pull.upstream, pull.repository or "", *plain)


def of_arrival(arrival: Arrival) -> Values:
    """Its row, for PUT_ARRIVAL."""
    plain = [getattr(arrival, column) for column in ARRIVAL if column not in _NAMED]
    return (arrival.upstream, arrival.repository or "", *plain)


def of_spell(spell: Spell) -> Values:
    """Its row, for PUT_SPELL."""
    return tuple(getattr(spell, column) for column in SPELL)


def of_sum(values: Values) -> Values:
    """Its row, for ADD."""
    start, upstream, repository, *figures = values
    return (start, upstream, repository or "", *figures)


def pulls(wanted: PullFilter) -> tuple[str, Values]:
    """The pulls that are wanted; the last question mark is how many."""
    conditions = {
        "t.id < ?": wanted.before,
        "n.path = ?": wanted.repository,
        "t.reference = ?": wanted.reference,
        "t.client = ?": wanted.client,
        "t.result = ?": wanted.result,
        "t.began + t.seconds >= ?": wanted.since,
    }
    asked = {text: value for text, value in conditions.items() if value is not None}
    texts, values = [*asked], [*asked.values()]
    if wanted.digest is not None:
        texts.append("(t.digest = ? OR t.was = ? OR t.reference = ?)")
        values += [wanted.digest] * 3
    if wanted.hidden:
        texts.append(_not_of(wanted.hidden))
        values += wanted.hidden
    where = f" WHERE {' AND '.join(texts)}" if texts else ""
    return f"{_get('pulls', PULL)}{where} ORDER BY t.id DESC LIMIT ?", tuple(map(_plain, values))


def totals(wanted: TotalsFilter) -> tuple[str, Values]:
    """The totals that are wanted; the last question mark is how many."""
    start = "t.start" if wanted.span == "hour" else f"t.start / {DAY} * {DAY}"
    upstream = "NULL" if wanted.by == "all" else "n.upstream"
    path, values = "NULL", list[object]()
    if wanted.by == "repository":
        path, values = _path_but(wanted.hidden), [*wanted.hidden]
    texts = ["t.start + t.span > ?"]
    values.append(wanted.since)
    if wanted.span == "hour":
        texts.append(f"t.span = {HOUR}")
    for column, value in (("n.upstream", wanted.upstream), ("n.path", wanted.repository)):
        if value is not None:
            texts.append(f"{column} = ?")
            values.append(value)
    if wanted.repository is not None:
        texts.append(_not_of(wanted.hidden))
        values += wanted.hidden
    sums = ", ".join(f"sum(t.{figure})" for figure in _FIGURES)
    return (
        f"SELECT {start} AS start, {upstream}, {path}, {sums}"
        f" FROM totals AS t JOIN names AS n ON n.id = t.name WHERE {' AND '.join(texts)}"
        f" GROUP BY 1, 2, 3 ORDER BY 1 DESC, sum(t.served) DESC LIMIT ?"
    ), tuple(values)


def _plain(value: object) -> object:
    """As SQLite takes it: an enum's own text is a subclass of `str`."""
    return str(value) if isinstance(value, str) else value
