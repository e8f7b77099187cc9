"""A real PostgreSQL, and PgBouncer in front of it: on loopback, in a directory of their own.

PostgreSQL refuses to run as root: where the tests do, it runs as its own user, and so does its
directory belong to it.
"""

import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Self

import asyncpg

from mirror.shared.database import Database
from tests.support.process import CHILD_ENVIRONMENT, Process, free_port
from tests.support.require import require

PASSWORD = "pass/word of tests"  # noqa: S105 - of a server that lives for a test
_QUOTED = "pass%2Fword%20of%20tests"
_USER = "mirror"
_PATIENCE = 60

# What a power cut would lose does not matter here.
_SETTINGS = {
    "fsync": "off", "full_page_writes": "off",
    "max_connections": "200", "listen_addresses": "127.0.0.1", "shared_buffers": "16MB",
    "wal_level": "replica",
}  # fmt: skip


@cache
def _programs() -> Path:
    """Where Debian keeps them, the newest version first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda it: int(it.parent.name))
    if not found:
        require("postgres")
    return found[-1]


def _as_its_user() -> tuple[str, ...]:
    if os.geteuid():
        return ("setpriv", "--pdeathsig", "KILL", "--")
    return (
        "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig", "KILL",
        "--",
    )  # fmt: skip


class Postgres:
    """A server that can be stopped, killed, suspended and started again."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self._log = directory / "log"
        self._server: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def running(cls, *settings: str) -> Iterator[Self]:
        """Run an empty one inside the block; `settings` are lines of postgresql.conf."""
        with _directory() as directory:
            server = cls(directory, free_port())
            _make(directory / "data")
            server.configure(*settings)
            server.start()
            try:
                yield server
            finally:
                server.kill()

    @contextmanager
    def standby(self) -> Iterator["Postgres"]:
        """A read-only copy of it that follows."""
        with _directory() as directory:
            standby = Postgres(directory, free_port())
            _run(
                _programs() / "pg_basebackup", "--pgdata", directory / "data",
                "--host", "127.0.0.1", "--port", str(self.port), "--username", _USER,
                "--write-recovery-conf",
                "--checkpoint", "fast", "--wal-method", "stream",
                password=PASSWORD,
            )  # fmt: skip
            standby.start()
            try:
                yield standby
            finally:
                standby.kill()

    def configure(self, *lines: str) -> None:
        """Append to its configuration; it is read at its start."""
        with (self.directory / "data" / "postgresql.conf").open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def identify(self, certificate_file: Path, key_file: Path) -> None:
        """Have it speak TLS, as this; from its next start on."""
        for name, file in (("server.crt", certificate_file), ("server.key", key_file)):
            copy = self.directory / "data" / name
            copy.write_bytes(file.read_bytes())
            copy.chmod(0o600)
            _give_away(copy)
        self.configure("ssl = on")

    def url(self, database: str, *, port: int | None = None, parameters: str = "") -> str:
        return (
            f"postgresql://{_USER}:{_QUOTED}@127.0.0.1:{port or self.port}/{database}{parameters}"
        )

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                (
                    *_as_its_user(), _programs() / "postgres", "-D", self.directory / "data",
                    "-p", str(self.port), "-k", self.directory,
                ),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=CHILD_ENVIRONMENT,
                start_new_session=True,
            )  # fmt: skip
        ready = _programs() / "pg_isready"
        command = (ready, "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1")
        for _ in range(_PATIENCE * 10):
            if self._server.poll() is not None:
                break
            if not subprocess.run(command, check=False, env=CHILD_ENVIRONMENT).returncode:
                return
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(0.05)
        raise AssertionError(f"PostgreSQL did not start:\n{self._log.read_text()}")

    def stop(self) -> None:
        """Have it end every session, and itself, as an orderly restart does."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, as a crash of all of its processes does."""
        if self._server is not None and self._server.poll() is None:
            self.proceed()
            self._end(signal.SIGQUIT)

    def suspend(self) -> None:
        """Have it, and all of its sessions, stand still: it takes connections and says nothing."""
        self._signal_all(signal.SIGSTOP)

    def proceed(self) -> None:
        """Have it go on after `suspend`."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._server is not None
        pid = self._server.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(one, number)

    def _end(self, number: signal.Signals) -> None:
        assert self._server is not None
        self._server.send_signal(number)
        self._server.wait(_PATIENCE)

    async def create_database(self) -> str:
        """Make a database that nobody else uses; its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        await self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    async def execute(self, sql: str, *, database: str = "postgres") -> None:
        """Do something as its administrator."""
        connection = await asyncpg.connect(self.url(database))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


@asynccontextmanager
async def opened(
    url: str, directory: Path, *, name: str = "one", expected: str | None = None, within: float = 30
) -> AsyncIterator[Database]:
    """The database at `url`, as a mirror has it; a fault in its tasks fails the test."""
    faults: list[Exception] = []
    file = directory / f"database-{name}"
    file.write_text(f"{url}\n", encoding="utf-8")
    async with Database.open(
        file, name=name, expected=expected, note_fault=lambda _, fault: faults.append(fault),
        dice=random.Random(1), within=within,  # noqa: S311 - for jitter
    ) as database:  # fmt: skip
        yield database
    if faults:
        raise faults[0]


@asynccontextmanager
async def running_pgbouncer(directory: Path, server: Postgres) -> AsyncIterator[int]:
    """Run PgBouncer in transaction mode in front of a server; its port."""
    require("pgbouncer")
    port = free_port()
    with _directory() as home:
        users = home / "users.txt"
        users.write_text(f'"{_USER}" "{PASSWORD}"\n', encoding="utf-8")
        file = home / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
            "default_pool_size = 20\nmax_client_conn = 200\n",
            encoding="utf-8",
        )
        for one in (users, file):
            _give_away(one)
        process = Process(
            (*_as_its_user(), "pgbouncer", file),
            log=directory / "pgbouncer.log",
            ready=lambda: _answers(server.url("postgres", port=port)),
        )
        async with process:
            yield port
            await process.kill()


async def _answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=2, statement_cache_size=0)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


@contextmanager
def _directory() -> Iterator[Path]:
    """One that the server's user may enter: pytest's own are for their owner alone."""
    directory = Path(tempfile.mkdtemp(prefix="mirror-postgres-"))
    _give_away(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _give_away(path: Path) -> None:
    if not os.geteuid():
        user = pwd.getpwnam("postgres")
        os.chown(path, user.pw_uid, user.pw_gid)


def _make(data: Path) -> None:
    secret = data.parent / "password"
    secret.write_text(PASSWORD, encoding="utf-8")
    _give_away(secret)
    _run(
        _programs() / "initdb", "--pgdata", data, "--username", _USER, "--pwfile", secret,
        "--auth", "scram-sha-256", "--no-sync", "--encoding", "UTF8", "--locale", "C",
    )  # fmt: skip
    with (data / "postgresql.conf").open("a") as file:
        file.write("".join(f"{name} = '{value}'\n" for name, value in _SETTINGS.items()))


def _run(*command: str | Path, password: str | None = None) -> None:
    environment = {**CHILD_ENVIRONMENT} | ({"PGPASSWORD": password} if password else {})
    done = subprocess.run(
        (*_as_its_user(), *command), check=False, capture_output=True, text=True, env=environment,
        cwd="/", timeout=_PATIENCE,
    )  # fmt: skip
    assert not done.returncode, f"{command[0]}: {done.stdout}{done.stderr}"
