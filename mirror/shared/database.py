"""One PostgreSQL database, as a mirror that has to go on without it sees it.

    state     what is known                      who asks                    next
    down      nothing, or how it failed          is told so at once          up, when it answers
    up        it answers, is ours, up to date    is answered                 doubted, down
    doubted   an answer did not come in time     waits for a moment only     up or down, by a look
    unusable  somebody else's, or too new        is told so at once          up, when it is ours

Nobody waits for a database that does not answer: that is what `DatabaseDown` says, at once, and the
mirror goes on with what it knows itself. A look every few seconds tells whether it lives, has its
clock compared, and brings the address anew from its file, where a password may have changed.

Nothing here needs a session that lasts from one statement to the next, but for `listen`: PgBouncer
may stand in between, in transaction mode. Then notifications do not come, and `hears` is False; and
no statement stays prepared, which costs a trip more for each.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from mirror.aio.backoff import Backoff
from mirror.aio.tasks import NoteFault, owned_tasks
from mirror.oci.errors import StoreError
from mirror.shared.address import Address, read_address
from mirror.shared.failing import DatabaseDown, translated
from mirror.shared.migrating import Deployment, Unusable, migrate, require_ours
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_CONNECTIONS = 8
_STATEMENTS = 100  # that stay prepared in each, where it is one session
_PATIENCE = 2.0  # seconds for an answer that somebody waits for
_DOUBT = 0.25  # the same while it is doubted
_AT_LENGTH = 30.0  # for what takes long: migrations, walks
_LOOK_EVERY = 5.0
_FIRST = 5.0  # at start, before the mirror begins without it
_BACKOFF = Backoff(first=0.2, most=10.0)
_ECHO = "mirror_echo"

Heard = Callable[[str], None]


class Database:
    """The database. Use `Database.open`."""

    def __init__(
        self, file: Path, *, name: str, monotonic: Callable[[], float], dice: Random
    ) -> None:
        self._file = file
        self._name = name
        self._monotonic = monotonic
        self._random = dice
        self._pool: Any = None
        self._doubted = asyncio.Event()
        self._looked = asyncio.Event()  # for the first time
        self._expected: str | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._heard: dict[str, list[Heard]] = {}
        self._clock_at = (0.0, 0.0)  # the database's time, and ours then
        self.deployment: Deployment | None = None
        self.refusal: Unusable | None = None
        self.trouble: str | None = "nobody has asked it yet"
        self.hears = False
        self.up_since = 0.0
        self.is_in_clear = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        file: Path,
        *,
        name: str,
        expected: str | None,
        note_fault: NoteFault,
        monotonic: Callable[[], float] = time.monotonic,
        dice: Random,
        within: float = _FIRST,
    ) -> AsyncIterator["Database"]:
        """Look for it, and go on looking. `file` holds its URL (`mirror.shared.address`).

        `name` is this mirror's; `expected` the deployment that it belongs to, if it is known. It
        need not be there: after `within` seconds the block begins without it.

        Raises:
            Unusable: It answers, and is not for this mirror; or the file makes no sense.
        """
        database = cls(file, name=name, monotonic=monotonic, dice=dice)
        database._expected = expected
        async with owned_tasks(note_fault) as tasks:
            tasks.keep(database._keep_up, name="database")
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await database._looked.wait()
            if database.refusal is not None:
                raise database.refusal
            yield database

    @property
    def is_up(self) -> bool:
        """Whether it has answered when it was last asked."""
        return self._pool is not None

    def subscribe_up(self, act: Callable[[], None]) -> None:
        """Have `act` called whenever it answers again; now, if it does."""
        if act not in self._subscribers:  # a task that was started again says so again
            self._subscribers.append(act)
        if self.is_up:
            act()

    def listen(self, channel: str, heard: Heard) -> None:
        """Have `heard` called with what is notified on a channel; see `hears`.

        What is notified while it is down, or was while nobody listened, does not come.
        """
        hearing = self._heard.setdefault(channel, [])
        if heard not in hearing:  # as above
            hearing.append(heard)
        self.doubt()  # the listening connection is made anew with it

    def now(self) -> float:
        """The time by the database's clock, in seconds since the epoch, as far as it is known."""
        there, here = self._clock_at
        return there + (self._monotonic() - here)

    # Asking

    async def fetch(self, sql: str, *values: object, within: float | None = None) -> list[Any]:
        """The rows. Raises DatabaseDown, StoreError."""
        async with self._asking(within) as connection:
            return list(await connection.fetch(sql, *values))

    async def fetchrow(self, sql: str, *values: object, within: float | None = None) -> Any:
        """The first row, or None. Raises DatabaseDown, StoreError."""
        async with self._asking(within) as connection:
            return await connection.fetchrow(sql, *values)

    async def fetchval(self, sql: str, *values: object, within: float | None = None) -> Any:
        """The first value of the first row, or None. Raises DatabaseDown, StoreError."""
        async with self._asking(within) as connection:
            return await connection.fetchval(sql, *values)

    async def execute(self, sql: str, *values: object, within: float | None = None) -> str:
        """Do it; PostgreSQL's word on it ("UPDATE 1"). Raises DatabaseDown, StoreError."""
        async with self._asking(within) as connection:
            return str(await connection.execute(sql, *values))

    @asynccontextmanager
    async def transaction(self, *, within: float | None = None) -> AsyncIterator[Any]:
        """A connection, in a transaction: all that the block does, or nothing.

        Raises as the others.
        """
        async with self._asking(within) as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def _asking(self, within: float | None) -> AsyncIterator[Any]:
        pool = self._pool
        if pool is None:
            if self.refusal is not None:  # another: each raise adds to what one carries along
                raise Unusable(str(self.refusal))
            raise DatabaseDown(self.trouble or "it is looked for")
        patience = within or _PATIENCE
        if self._doubted.is_set():
            patience = min(patience, _DOUBT)
        with self._translated():
            async with asyncio.timeout(patience):
                connection = await pool.acquire()
                try:
                    yield connection
                finally:
                    await pool.release(connection, timeout=_DOUBT)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """As `translated`; where it is down, it is looked at."""
        try:
            with translated():
                yield
        except DatabaseDown:
            self.doubt()
            raise

    def doubt(self) -> None:
        """Have it looked at now."""
        self._doubted.set()

    # Keeping it

    async def _keep_up(self) -> None:
        failures = 0
        while True:
            try:
                async with self._connected() as listener:
                    failures = 0
                    self._looked.set()
                    await self._watch(listener)
            except StoreError as error:
                self._note_down(error)
            failures += 1
            await asyncio.sleep(_BACKOFF.delay(failures, roll=self._random.random()))

    def _note_down(self, error: StoreError) -> None:
        trouble = error.why if isinstance(error, DatabaseDown) else str(error)
        if trouble != self.trouble:
            tell = _logger.error if isinstance(error, Unusable) else _logger.warning
            tell("the mirror goes on without the shared database: %s", trouble, extra=fields())
        self.trouble = trouble
        self.refusal = error if isinstance(error, Unusable) else None
        self._looked.set()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        """It is up inside the block."""
        try:
            address = await asyncio.to_thread(read_address, self._file)
            context = await asyncio.to_thread(address.make_context)
        except ValueError as error:
            raise Unusable(f"shared.database_file {error}") from None
        self.is_in_clear = address.is_in_clear
        settings = _settings(address, context, self._name)
        async with AsyncExitStack() as stack:
            with self._translated():
                async with asyncio.timeout(_AT_LENGTH):
                    listener = await connect(address, context, self._name)
                stack.callback(listener.terminate)
                async with asyncio.timeout(_AT_LENGTH):
                    await require_primary(listener)
                    self.deployment = await migrate(listener, expected=self._expected)
                    self._expected = self.deployment.id
                    self.hears = await self._has_session(listener, address, context)
                    pool = asyncpg.create_pool(
                        min_size=0, max_size=_CONNECTIONS, reset=_leave_it,
                        statement_cache_size=_STATEMENTS if self.hears else 0, **settings,
                    )  # fmt: skip
                    stack.callback(pool.terminate)
                    await pool
                    await self._compare_clocks(pool)
                    for channel in self._heard if self.hears else ():
                        await listener.add_listener(channel, self._note_heard)
            self._begin(pool)
            try:
                yield listener
            finally:
                self._pool = None
                self._doubted.clear()

    def _begin(self, pool: Any) -> None:
        self._pool, self.trouble, self.refusal = pool, None, None
        self.up_since = self._monotonic()
        self._doubted.clear()
        _logger.info(
            "the shared database is there",
            extra=fields(deployment=self.deployment and self.deployment.id, hears=self.hears),
        )
        for act in self._subscribers:
            act()

    async def _watch(self, listener: Any) -> None:
        """Look at it now and then, and whenever it is doubted. Raises DatabaseDown, Unusable."""
        listening = set(self._heard)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await self._doubted.wait()
            with self._translated():
                async with asyncio.timeout(_PATIENCE):
                    await self._compare_clocks(self._pool)
                    await require_ours(self._pool, self._expected)
                    if self.hears and not await self._can_hear(listener, self._pool):
                        raise DatabaseDown("it does not notify any more")
                    for channel in (self._heard.keys() - listening) if self.hears else ():
                        await listener.add_listener(channel, self._note_heard)
                        listening.add(channel)
            self._doubted.clear()

    async def _compare_clocks(self, pool: Any) -> None:
        """Also sees that a primary has not become a standby."""
        before = self._monotonic()
        now, is_standby = await pool.fetchrow(
            "SELECT extract(epoch FROM clock_timestamp())::float8,"
            " pg_is_in_recovery() OR current_setting('transaction_read_only')::bool"
        )
        after = self._monotonic()
        if is_standby:
            raise DatabaseDown(_READ_ONLY)
        self._clock_at = now, (before + after) / 2

    async def _has_session(self, listener: Any, address: Address, context: object) -> bool:
        """Whether a connection is one session, for as long as it is there."""
        other = await connect(address, context, self._name)
        try:
            return await self._can_hear(listener, other)
        finally:
            other.terminate()

    async def _can_hear(self, listener: Any, other: Any) -> bool:
        """Whether what one connection notifies comes to another: not behind PgBouncer."""
        came = asyncio.Event()
        word = f"{self._random.getrandbits(64):x}"

        def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            if payload == word:
                came.set()

        await listener.add_listener(_ECHO, hear)
        try:
            await other.execute("SELECT pg_notify($1, $2)", _ECHO, word)
            async with asyncio.timeout(_PATIENCE / 2):
                await came.wait()
        except TimeoutError:
            return False
        finally:
            if not listener.is_closed():
                await listener.remove_listener(_ECHO, hear)
        return True

    def _note_heard(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        for heard in self._heard.get(channel, ()):
            heard(str(payload))


_READ_ONLY = (
    "it is a read-only standby: name the primary in shared.database_file, or all of its hosts"
    " (host1:5432,host2:5432), of which the one that can be written to is taken"
)


def _settings(address: Address, context: object, name: str) -> dict[str, Any]:
    return {
        "host": [host for host, _ in address.hosts],
        "port": [port for _, port in address.hosts],
        "database": address.name,
        "user": address.user,
        "password": address.password,
        "ssl": context,
        "timeout": _PATIENCE,
        "server_settings": {"application_name": f"mirror {name}"},
        "target_session_attrs": "read-write" if len(address.hosts) > 1 else None,
    }


async def connect(address: Address, context: object, name: str) -> Any:
    """A connection by itself, of the host that can be written to where there are several.

    Raises what `translated` translates; DatabaseDown.
    """
    try:
        return await asyncpg.connect(statement_cache_size=0, **_settings(address, context, name))
    except asyncpg.TargetServerAttributeNotMatched:
        raise DatabaseDown(_READ_ONLY) from None


async def require_primary(connection: Any) -> None:
    """See that it can be written to. Raises DatabaseDown."""
    sql = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool"
    if await connection.fetchval(sql):
        raise DatabaseDown(_READ_ONLY)


async def _leave_it(_connection: object) -> None:
    """Nothing is ever set in a session: there is nothing to be set back, in a trip of its own."""
