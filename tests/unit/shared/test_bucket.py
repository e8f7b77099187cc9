"""Objects, and whose bucket it is; in memory and on this disk."""

import re
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest
from obstore.store import LocalStore, MemoryStore

from mirror.config import EnvironmentProxies, Shared
from mirror.shared.bucket import MARKER, PROBE, ObjectBucket
from mirror.shared.migrating import Deployment
from mirror.shared.opening import OwnBucket, make_store
from mirror.shared.ports import BucketDown, NoObject
from tests.conformance.bucket import BucketConformance
from tests.support.bucket import begin_obstore
from tests.support.leaks import descriptors
from tests.support.process import until
from tests.support.tasks import owned_tasks


@pytest.fixture(scope="module", autouse=True)
def obstore_has_begun() -> None:
    begin_obstore()


class Ours:
    """A database of the deployment "ours"; those in `acts` are told that it is back."""

    deployment = Deployment("ours", 1)

    def __init__(self) -> None:
        self.acts: list[Callable[[], None]] = []

    def subscribe_up(self, act: Callable[[], None]) -> None:
        self.acts.append(act)


class TestHere(BucketConformance):
    @pytest.fixture(params=["memory", "disk"])
    async def bucket(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> AsyncIterator[ObjectBucket]:
        bucket = ObjectBucket(MemoryStore() if request.param == "memory" else LocalStore(tmp_path))
        yield bucket

        async def is_closed() -> bool:
            # What obstore's threads let go of, a file among it, goes with a later call of it.
            with suppress(NoObject):
                await bucket.measure("nothing")
            return not any(str(tmp_path) in target for _, target in descriptors())

        await until(is_closed)


async def test_nothing_is_put_or_read_before_it_is_known_whose_it_is() -> None:
    own = OwnBucket(ObjectBucket(MemoryStore()))
    with pytest.raises(BucketDown):
        await own.put("one", b"1")
    with pytest.raises(BucketDown):
        await anext(own.read("one", 0, 1))
    assert not own.is_up


async def test_a_bucket_that_becomes_anothers_is_used_no_more_until_it_is_ours_again() -> None:
    bucket = ObjectBucket(MemoryStore())
    own = OwnBucket(bucket, again=0.01)
    dice = Random(14)  # noqa: S311 - for jitter
    async with owned_tasks() as tasks:
        tasks.keep(lambda: own.see_whose_it_is(Ours(), dice), name="bucket")
        await own.looked()
        await own.put("one", b"1")
        await bucket.put(MARKER, b"another's")

        async def is_refused() -> bool:
            return own.refusal is not None

        await until(is_refused)
        assert not own.is_up
        with pytest.raises(BucketDown, match="belongs to deployment"):
            await own.put("two", b"2")
        await bucket.put(MARKER, b"ours")

        async def is_ours() -> bool:
            return own.is_up and own.refusal is None

        await until(is_ours)
        assert await own.measure("one") == 1


async def test_it_is_looked_at_when_the_database_is_back() -> None:
    """Until it is known whose it is, every fill would turn to upstream."""
    bucket, database = ObjectBucket(MemoryStore()), Ours()
    own = OwnBucket(bucket, again=3600)
    dice = Random(14)  # noqa: S311 - for jitter
    async with owned_tasks() as tasks:
        tasks.keep(lambda: own.see_whose_it_is(database, dice), name="bucket")
        await own.looked()
        await bucket.put(MARKER, b"another's")
        for act in database.acts:
            act()

        async def is_refused() -> bool:
            return own.refusal is not None

        await until(is_refused)


class RefusingBucket(ObjectBucket):
    """A bucket in memory that `refuses` some of what it is asked."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        super().__init__(self.store)
        self.refuses = set[str]()
        self.most = 2**30  # bytes of an object
        self.asked = Counter[str]()

    async def put(self, key: str, content: bytes) -> None:
        self._ask("put")
        if len(content) > self.most:
            raise BucketDown("507 quota")
        await super().put(key, content)

    async def get(self, key: str) -> bytes:
        self._ask("read")
        return await super().get(key)

    async def measure(self, key: str) -> int:
        self._ask("read")
        return await super().measure(key)

    async def delete(self, keys: Sequence[str]) -> None:
        self._ask("delete")
        await super().delete(keys)

    def _ask(self, what: str) -> None:
        self.asked[what] += 1
        if what in self.refuses:
            raise BucketDown("403 Forbidden")

    async def until_asked(self, what: str, times: int) -> None:
        """Return when it was asked for that so often again."""
        most = self.asked[what] + times

        async def is_asked() -> bool:
            return self.asked[what] >= most

        await until(is_asked)


@asynccontextmanager
async def owned(bucket: ObjectBucket) -> AsyncIterator[OwnBucket]:
    """It is ours inside the block, and looked at often."""
    own = OwnBucket(bucket, again=0.01)
    dice = Random(14)  # noqa: S311 - for jitter
    async with owned_tasks() as tasks:
        tasks.keep(lambda: own.see_whose_it_is(Ours(), dice), name="bucket")
        await own.looked()
        yield own


async def until_up(own: OwnBucket) -> None:
    async def is_up() -> bool:
        return own.is_up

    await until(is_up)


async def test_a_bucket_that_nobody_asks_is_known_to_be_back() -> None:
    bucket = RefusingBucket()
    async with owned(bucket) as own:
        bucket.refuses = {"read", "put", "delete"}
        with pytest.raises(BucketDown):
            await own.measure("one")
        with pytest.raises(BucketDown):
            await own.put("one", b"1")
        with pytest.raises(BucketDown):
            await own.delete(["one"])
        assert not own.is_up
        bucket.refuses = set()
        await until_up(own)
        assert not [key async for batch in own.list() for key, _, _ in batch if key != MARKER]


@pytest.mark.parametrize("most", [-1, 1000])
async def test_a_bucket_that_can_be_read_and_not_written_stays_down(
    most: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Else it is up again after every look, and no alert ever comes of it; by a quota, too."""
    bucket = RefusingBucket()
    async with owned(bucket) as own:
        await bucket.put("one", b"1")
        bucket.most = most
        with pytest.raises(BucketDown):
            await own.put("two", bytes(2000))
        await bucket.until_asked("read", 3)
        assert await own.measure("one") == 1
        assert not own.is_up
        assert own.can_read
        assert len([it for it in caplog.messages if "the bucket is down" in it]) == 1
        bucket.most = 2000
        await until_up(own)


async def test_a_bucket_that_deletes_nothing_is_used_and_said_to_grow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bucket = RefusingBucket()
    async with owned(bucket) as own:
        bucket.refuses = {"delete"}
        with pytest.raises(BucketDown):
            await own.delete(["one"])
        await bucket.until_asked("delete", 3)
        assert own.is_up
        assert own.trouble is not None
        assert [it for it in caplog.messages if "the bucket" in it] == [
            "the bucket deletes nothing: 403 Forbidden"
        ]
        bucket.refuses = set()

        async def is_well() -> bool:
            return own.trouble is None

        await until(is_well)


async def test_however_often_an_answer_is_lost_one_object_is_left_at_most() -> None:
    class Lossy(RefusingBucket):
        async def put(self, key: str, content: bytes) -> None:
            await super().put(key, content)
            if key.startswith(PROBE):
                raise BucketDown("no answer")

    bucket = Lossy()
    async with owned(bucket) as own:
        bucket.refuses = {"put"}
        with pytest.raises(BucketDown):
            await own.put("one", b"1")
        bucket.refuses = set()
        await bucket.until_asked("put", 5)
        left = [key async for batch in bucket.list() for key, _, _ in batch if key != MARKER]
        assert len(left) == 1


async def test_what_is_read_to_its_end_makes_no_bucket_ours_again() -> None:
    bucket = ObjectBucket(MemoryStore())
    async with owned(bucket) as own:
        await own.put("one", bytes(3 * 2**20))
        reading = own.read("one", 0, 3 * 2**20)
        await anext(reading)
        await bucket.put(MARKER, b"another's")

        async def is_refused() -> bool:
            return own.refusal is not None

        await until(is_refused)
        async for _ in reading:
            pass
        assert own.trouble == str(own.refusal)
        assert not own.is_up


@pytest.mark.parametrize(
    "bucket", ["s3://mirror-cache", "s3://mirror-cache/site-1", "gs://mirrors/1"]
)
def test_the_storage_of_a_cloud_is_known_without_an_endpoint(tmp_path: Path, bucket: str) -> None:
    file = tmp_path / "database"
    file.write_text("postgresql://somewhere/mirror")
    shared = Shared.model_validate({"database_file": str(file), "bucket": bucket})
    host, _, prefix = bucket.partition("://")[2].partition("/")
    made = make_store(shared, EnvironmentProxies())
    assert (made.prefix, host in repr(made)) == (prefix or None, True)


@pytest.mark.parametrize(
    ("bucket", "environ", "says"),
    [
        ("az://container", {}, "names no storage account (AZURE_STORAGE_ACCOUNT_NAME)"),
        ("gs://somewhere", {"GOOGLE_SERVICE_ACCOUNT_KEY": '"hidden"'}, "service account file"),
        ("s3://somewhere", {"AWS_ACCESS_KEY_ID": "hidden"}, "Missing SecretAccessKey"),
    ],
)
def test_what_the_environment_lacks_is_told_and_nothing_of_it_quoted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bucket: str,
    environ: dict[str, str],
    says: str,
) -> None:
    (file := tmp_path / "database").write_text("postgresql://somewhere/mirror")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    shared = Shared.model_validate({"database_file": str(file), "bucket": bucket})
    with pytest.raises(ValueError, match=re.escape(says)) as told:
        make_store(shared, EnvironmentProxies())
    assert "hidden" not in "".join(traceback.format_exception(told.value))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "content", ["secret line", "[default]\naws_secret_access_key secret", "[other]\nx = secret"]
)
async def test_what_a_credentials_file_holds_is_quoted_by_nothing(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "credentials"
    file.write_text(content)
    shared = Shared.model_validate(
        {
            "database_file": str(file), "bucket": "s3://somewhere", "credentials_file": str(file),
            "endpoint": "http://127.0.0.1:9",
        }
    )  # fmt: skip
    bucket = ObjectBucket(make_store(shared, EnvironmentProxies()))
    with pytest.raises(BucketDown, match="credentials_file does not hold") as raised:
        await bucket.put("one", b"1")
    with pytest.raises(BucketDown, match="credentials_file does not hold") as signing:
        await bucket.sign("one", 60)
    for told in (raised, signing):
        text = "".join(traceback.format_exception(told.value))
        assert "secret line" not in text
        assert " = secret" not in text
        assert "key secret" not in text
