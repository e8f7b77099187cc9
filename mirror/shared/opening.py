"""What several mirrors have in common, opened: the database, and a bucket that is theirs.

Neither need be there. What is there and belongs to another deployment is refused: bytes and
permissions of two of them must not mix.
"""

import asyncio
import configparser
import logging
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from mirror.aio.backoff import Backoff
from mirror.aio.tasks import NoteFault, Tasks, owned_tasks
from mirror.config import ConfigError
from mirror.config.proxies import EnvironmentProxies
from mirror.config.shared import Shared
from mirror.oci.digest import Chunk
from mirror.shared.bucket import CLIENT_OPTIONS, PROBE, RETRIES, ObjectBucket, claim_bucket
from mirror.shared.database import Database
from mirror.shared.migrating import Deployment, Unusable
from mirror.shared.ports import BucketDown
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_BACKOFF = Backoff(first=0.5, most=10.0)
_FIRST = 5.0  # seconds at start, before the mirror begins without the bucket
_AGAIN = 30.0  # seconds, before it is looked at again
_CREDENTIALS_FOR = timedelta(minutes=5)  # then they are read anew
_NOWHERE = "http://127.0.0.1:9"  # a proxy that nothing goes by
_NO_ACCOUNT = "Account must be specified"  # says obstore, of Azure
_PREFIX = re.compile(r"^Generic \w+ error: ")
_QUOTED = re.compile("""[`"'][^`"']*[`"']""")
_NAME_FILE, _DEPLOYMENT_FILE = "mirror-id", "deployment-id"
_READ, _PUT, _DELETE = "read", "put", "delete"  # what a bucket may do, or not


class Whose(Protocol):
    """What knows whose the bucket has to be (`mirror.shared.database.Database`)."""

    @property
    def deployment(self) -> Deployment | None:
        """The deployment; None: that is not known yet."""

    def subscribe_up(self, act: Callable[[], None]) -> None:
        """Have `act` called whenever it answers again; now, if it does."""


class OwnBucket:
    """A `mirror.shared.ports.Bucket`, while it is known to be this deployment's; else down.

    It is looked at every so often (`again`, in seconds): of two deployments that have come at once,
    one finds out so, and that it is back is known also where nobody asks it for anything. One that
    can be read and not written (a right, a quota) is back when as much can be put again as it has
    refused. One that deletes nothing is up: it only grows.
    """

    def __init__(self, bucket: ObjectBucket, *, again: float = _AGAIN) -> None:
        self._bucket = bucket
        self._again = again
        self._looked = asyncio.Event()
        self._must_look = asyncio.Event()
        self._is_ours = False
        self._is_new = True  # nothing has been said of it yet
        self._undone = {_READ: "nobody has asked it yet"}  # what it did not do, asked last; and why
        self._refused: int | None = (
            None  # bytes, the fewest that it has not taken since it took any
        )
        self._probe = f"{PROBE}{uuid.uuid4().hex}"  # a key of this mirror's: others ask, too
        self.refusal: Unusable | None = None

    @property
    def trouble(self) -> str | None:
        """Why it cannot be used, or not for everything; None: it can."""
        if self.refusal is not None:
            return str(self.refusal)
        return next(iter(self._undone.values()), None)

    @property
    def is_up(self) -> bool:
        """Whether it has given and taken what it was last asked to."""
        return self.can_read and _PUT not in self._undone

    @property
    def can_read(self) -> bool:
        """Whether it has given what it was last asked for."""
        return self.refusal is None and _READ not in self._undone

    async def see_whose_it_is(self, database: Whose, random: Random) -> None:
        """Look whose it is, and later whether it still is, and is there; for ever.

        Also as soon as the database is back: then fills begin to ask for what is in it, and would
        turn to upstream for as long as nobody had looked.
        """
        database.subscribe_up(self._must_look.set)
        failures = 0
        while True:
            self._must_look.clear()
            with suppress(BucketDown):  # that is noted
                deployment = database.deployment
                if deployment is not None:
                    await self._claim(deployment.id)
                    self._looked.set()
                    await self._ask_again()
                    failures = 0
                    await self._rest(self._again * (0.5 + random.random()))
                    continue
            failures += 1
            await self._rest(_BACKOFF.delay(failures, roll=random.random()))

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._must_look.wait()

    async def _claim(self, deployment: str) -> None:
        async with self._noting(_READ):
            other = await claim_bucket(self._bucket, deployment)
        if other is None:
            self._is_ours, self.refusal = True, None
            return
        refusal = Unusable(
            f"the bucket belongs to deployment {other[:64]!r}, this mirror to {deployment!r}: name"
            " another bucket, or another prefix in it"
        )
        if str(refusal) != str(self.refusal):
            _logger.error("%s", refusal)
        self._is_ours, self.refusal = False, refusal
        self._looked.set()
        raise BucketDown(str(refusal))

    async def _ask_again(self) -> None:
        """Ask for what it did not do last; that it can be read is known by now."""
        if _PUT in self._undone:
            await self.put(self._probe, bytes(self._refused or 1))
            await self.delete([self._probe])
        elif _DELETE in self._undone:  # whether it is there or not
            await self.delete([self._probe])

    async def looked(self) -> None:
        """Return when it has been looked at for the first time."""
        await self._looked.wait()

    async def put(self, key: str, content: bytes) -> None:
        """As `Bucket.put`."""
        try:
            async with self._asking(_PUT):
                await self._bucket.put(key, content)
        except BucketDown:
            self._refused = min(len(content), self._refused or len(content))
            raise
        self._refused = None

    async def put_large(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """As `Bucket.put_large`."""
        async with self._asking(_PUT):
            await self._bucket.put_large(key, chunks)

    async def read(self, key: str, start: int, stop: int) -> AsyncGenerator[Chunk, None]:
        """As `Bucket.read`."""
        async with self._asking(_READ), aclosing(self._bucket.read(key, start, stop)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def delete(self, keys: Sequence[str]) -> None:
        """As `Bucket.delete`."""
        async with self._asking(_DELETE):
            await self._bucket.delete(keys)

    async def list(self) -> AsyncIterator[list[tuple[str, int, datetime]]]:
        """As `ObjectBucket.list`."""
        async with self._asking(_READ):
            async for batch in self._bucket.list():
                yield batch

    async def measure(self, key: str) -> int:
        """As `Bucket.measure`."""
        async with self._asking(_READ):
            return await self._bucket.measure(key)

    async def sign(self, key: str, seconds: float) -> str:
        """As `Bucket.sign`."""
        async with self._asking(_READ):
            return await self._bucket.sign(key, seconds)

    @asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[None]:
        if not self._is_ours:
            raise BucketDown(self.trouble or "it is not known whose the bucket is")
        async with self._noting(what):
            yield

    @asynccontextmanager
    async def _noting(self, what: str) -> AsyncIterator[None]:
        try:
            yield
        except BucketDown as error:
            if not self._undone or self._is_new:
                how = "deletes nothing" if what == _DELETE else "is down"
                _logger.warning("the bucket %s: %s", how, error, extra=fields())
            self._is_new = False
            self._undone[what] = str(error)
            raise
        self._undone.pop(what, None)


@dataclass(frozen=True, slots=True)
class Common:
    """What several mirrors have in common. `name` is this mirror's, for as long as its store is."""

    name: str
    database: Database
    bucket: OwnBucket
    had_trouble: Callable[[float], bool]
    """Whether the database was away within so many seconds."""
    was_one: bool
    """Whether this mirror was one of these before it was started."""


@asynccontextmanager
async def open_common(
    settings: Shared,
    root: Path,
    *,
    note_fault: NoteFault,
    monotonic: Callable[[], float],
    dice: Random,
    proxies: EnvironmentProxies | None,
) -> AsyncIterator[Common]:
    """Open both for the mirror whose store is at `root`; neither need be there.

    Raises:
        ConfigError: The bucket's server cannot be asked like that.
        Unusable: One of them is there, and another deployment's, or the database too new.
    """
    name, expected = await asyncio.to_thread(read_names, root)
    try:
        store = make_store(settings, proxies or EnvironmentProxies())
    except ValueError as error:
        raise ConfigError("shared.bucket", [f"cannot be used: {error}"]) from None
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            Database.open(
                settings.database_file, name=name, expected=expected, note_fault=note_fault,
                monotonic=monotonic, dice=dice,
            )
        )  # fmt: skip
        tasks = await stack.enter_async_context(owned_tasks(note_fault))
        bucket = OwnBucket(ObjectBucket(store))
        tasks.keep(lambda: bucket.see_whose_it_is(database, dice), name="bucket")
        ups = _Ups(monotonic, tasks, database, root / _DEPLOYMENT_FILE)
        database.subscribe_up(ups.note)
        if database.is_up:
            try:
                async with asyncio.timeout(_FIRST):
                    await bucket.looked()
            except TimeoutError:
                _logger.warning("the mirror begins without the bucket: %s", bucket.trouble)
        if bucket.refusal is not None:
            raise bucket.refusal
        yield Common(name, database, bucket, ups.were_within, was_one=expected is not None)


class _Ups:
    """When the database came back, for whom it was away."""

    def __init__(
        self, monotonic: Callable[[], float], tasks: Tasks, database: Database, file: Path
    ) -> None:
        self._monotonic = monotonic
        self._tasks = tasks
        self._database = database
        self._file = file
        self._was_away = not database.is_up
        self._back_at: float | None = None

    def note(self) -> None:
        """It answers (again)."""
        if self._was_away:
            self._back_at = self._monotonic()
        self._was_away = True  # by the next time
        deployment = self._database.deployment
        if deployment is not None:
            _ = self._tasks.create_task(
                asyncio.to_thread(self._file.write_text, deployment.id, "utf-8"), name="bucket"
            )

    def were_within(self, seconds: float) -> bool:
        """Whether it came back so lately that others may not have been able to renew anything."""
        return self._back_at is not None and self._monotonic() - self._back_at < 2 * seconds


def read_names(root: Path) -> tuple[str, str | None]:
    """This mirror's name, and the deployment that it belongs to."""
    file = root / _NAME_FILE
    name = file.read_text("utf-8").strip() if file.exists() else ""
    if not name:  # also where a power cut has left nothing in it: many would have that for a name
        name = uuid.uuid4().hex
        file.write_text(name, "utf-8")
    try:
        return name, (root / _DEPLOYMENT_FILE).read_text("utf-8").strip() or None
    except FileNotFoundError:
        return name, None


def make_store(settings: Shared, proxies: EnvironmentProxies) -> Any:
    """What obstore needs to know. Nobody is asked.

    Raises:
        ValueError: What the configuration and the environment say is not enough, or makes no sense.
    """
    try:
        return _make_store(settings, proxies)
    except BaseError as error:
        raise ValueError(_in_words(error)) from None


def _in_words(error: BaseError) -> str:
    """What is wrong, without what it quotes: that may be of a key."""
    text = str(error).partition("\n")[0]
    if _NO_ACCOUNT in text:
        return "the environment names no storage account (AZURE_STORAGE_ACCOUNT_NAME)"
    return _QUOTED.sub("(...)", _PREFIX.sub("", text))


def _make_store(settings: Shared, proxies: EnvironmentProxies) -> Any:
    url = urlsplit(settings.bucket)
    options: dict[str, Any] = {
        "prefix": url.path.strip("/") or None,
        "client_options": CLIENT_OPTIONS | _way(settings.endpoint, proxies),
        "retry_config": RETRIES,
    }
    name = url.netloc
    match url.scheme:
        case "gs":
            return GCSStore(name, **options)
        case "az":
            return AzureStore(name, **options)
        case _:
            if settings.credentials_file is not None:
                options["credential_provider"] = _Credentials(settings.credentials_file)
            if settings.endpoint is not None:
                options["endpoint"] = settings.endpoint
            return S3Store(
                name, region=settings.region or "us-east-1",
                unsigned_payload=True, virtual_hosted_style_request=False,
                disable_bulk_delete=True,  # not every server can, or lets who may delete these
                **options,
            )  # fmt: skip


def _way(endpoint: str | None, proxies: EnvironmentProxies) -> dict[str, Any]:
    """How the server is reached: obstore itself would go by way of a proxy also to this host."""
    if endpoint is None:
        return {}
    host, is_in_clear = urlsplit(endpoint).hostname or "", endpoint.startswith("http://")
    proxy = proxies.find_for(endpoint, own=None)
    if proxy is None:
        return {"allow_http": is_in_clear, "proxy_url": _NOWHERE, "proxy_excludes": host}
    login = f"{quote(proxy.username)}:{quote(proxy.password)}@" if proxy.username else ""
    url = str(proxy).replace("://", f"://{login}", 1)
    return {"allow_http": is_in_clear, "proxy_url": url}


class _Credentials:
    """Reads an AWS credentials file whenever obstore needs to know; they may change."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self) -> dict[str, Any]:
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(self._file.read_text("utf-8"))
            section = parser["default"]
            key, secret = section["aws_access_key_id"], section["aws_secret_access_key"]
        except (OSError, UnicodeDecodeError, configparser.Error, KeyError):  # some quote a line
            what = "[default], aws_access_key_id, aws_secret_access_key"
            raise ValueError(f"shared.credentials_file does not hold {what}") from None
        return {
            "access_key_id": key,
            "secret_access_key": secret,
            "token": section.get("aws_session_token"),
            "expires_at": datetime.now(UTC) + _CREDENTIALS_FOR,
        }
