"""Exporting: images of a depot, written as a bundle.

What is to be exported has to be here: nothing is asked of upstream for it, so that what a bundle
holds is what has been running. Everything that is not is named, and no bundle is written.

A bundle is written as a stream, to a file beside the one that it becomes at its end: a bundle with
its name is whole. One that breaks off is begun again; what it costs is a copy on this machine.
"""

import errno
import fcntl
import glob
import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import BinaryIO

from mirror.control.bundles import Blob, Companion, Depot, Plan, Wanted
from mirror.control.verify import Total
from mirror.oci import layout
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import StoreError
from mirror.operate.bundles import archive
from mirror.operate.bundles.steps import BundleStep, Done, Exported, Lacking, Meter, Moved

_PART = ".part"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What the other end has already: blobs of another bundle, and what was first stored before.

    `before` in seconds since the epoch. Manifests never are: what is missing at the other end can
    be told by them.
    """

    digests: Collection[Digest] = ()
    before: float = 0.0

    def has(self, blob: Blob) -> bool:
        """Whether a blob is left out."""
        if blob.is_manifest:
            return False
        return blob.stored_at < self.before or parse_digest(blob.digest) in self.digests


async def export(
    depot: Depot,
    images: Sequence[str],
    platforms: Sequence[str],
    *,
    left_out: LeftOut,
    write: Callable[[bytes], object],
    made_at: float,
    meter: Meter,
) -> AsyncGenerator[BundleStep]:
    """Write a bundle; what happens, step by step. It is whole where `Done` is the last of them.

    Raises StoreError, and ValueError for what makes no sense.
    """
    plans = [await depot.plan(Wanted(image, list(platforms))) for image in dict.fromkeys(images)]
    if lacking := [plan for plan in plans if plan.missing]:
        for plan in lacking:
            yield Lacking(plan.image, plan.missing)
        return
    blobs = {blob.digest: blob for plan in plans for blob in plan.blobs}
    wanted = [blob for blob in blobs.values() if not left_out.has(blob)]
    # Manifests first: whoever reads the bundle as a stream needs them first.
    wanted.sort(key=lambda it: (not it.is_manifest, it.digest))
    size = sum(blob.size for blob in wanted)
    yield Total(len(wanted), size)
    companions = list({it.image: it for plan in plans for it in plan.companions}.values())
    for name, content in (
        (layout.VERSION_FILE, layout.version()),
        (layout.INDEX_FILE, layout.make_index(_named(plans), made_at=made_at)),
        (layout.DOCKER_FILE, layout.make_docker_manifest(_runnable(plans, wanted))),
        *_lists(companions, {*blobs}, made_at=made_at),
    ):
        write(archive.header(name, len(content)))
        write(content + archive.padding(len(content)))
    for blob in wanted:
        await _copy(depot, blob, write, meter)
        yield Moved(blob.digest, blob.size, "written")
    write(archive.end())
    for plan in plans:
        referrers = sum(it.referrers or not it.content for it in plan.companions)
        yield Exported(plan.image, plan.digest, plan.platforms, referrers, plan.absent)
    yield Done(len(plans), len(wanted), size, len(blobs) - len(wanted))


def _named(plans: Iterable[Plan]) -> list[layout.NamedImage]:
    return [
        layout.NamedImage(it.image, parse_digest(it.digest), it.size, it.media_type)
        for it in {plan.image: plan for plan in plans}.values()
    ]


def _lists(
    companions: Sequence[Companion], written: Collection[str], *, made_at: float
) -> Iterator[tuple[str, bytes]]:
    """The files of what refers to the images, beside the blobs that are `written` anyway."""
    if not companions:
        return
    named = [
        layout.NamedImage(it.image, parse_digest(it.digest), it.size, it.media_type)
        for it in companions
    ]
    yield layout.REFERRERS_FILE, layout.make_index(named, made_at=made_at)
    for digest, content in {it.digest: it.content for it in companions if it.content}.items():
        if digest not in written:
            yield layout.blob_path(parse_digest(digest)), content.encode()


def _runnable(plans: Iterable[Plan], written: Iterable[Blob]) -> Iterator[layout.Runnable]:
    """The images that can be loaded from this bundle alone."""
    there = {blob.digest for blob in written}
    for plan in {plan.image: plan for plan in plans}.values():
        if plan.config and there.issuperset((plan.config, *plan.layers)):
            layers = tuple(map(parse_digest, plan.layers))
            yield layout.Runnable(plan.image, parse_digest(plan.config), layers)


async def _copy(depot: Depot, blob: Blob, write: Callable[[bytes], object], meter: Meter) -> None:
    digest, written = parse_digest(blob.digest), 0
    hasher = digest.hasher()
    write(archive.header(layout.blob_path(digest), blob.size))
    async with aclosing(depot.read(digest)) as pieces:
        async for piece in pieces:
            hasher.update(piece)
            write(piece)
            written += len(piece)
            meter.advance(len(piece))
    if written != blob.size or not digest.matches(hasher):
        raise StoreError(f"{digest} is damaged here: mirror verify {digest} sets it aside")
    write(archive.padding(blob.size))


@contextmanager
def becoming(path: Path) -> Iterator[BinaryIO]:
    """A file that is at `path` once the block has ended well; until then, what was there is.

    Only its owner may read it: there may be private images in it. What is no file, such as a named
    pipe or a device, is written to as it is.

    Raises:
        OSError: It cannot be written there.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()  # a link stays one; that to a pipe in /proc leads to no name
    if not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is no directory", str(path.parent))
    _remove_left(path)
    file, name = _begin(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _begin(path: Path) -> tuple[BufferedWriter, str]:
    """A new file beside it, and its name; it is locked, and so not taken for one that was left."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
        file = os.fdopen(handle, "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return file, name
        file.close()  # another export has begun just before it was locked, and has removed it


def _remove_left(path: Path) -> None:
    """Of exports to there that were killed, nothing is left; others that are under way go on."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*{_PART}"):
        with suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
