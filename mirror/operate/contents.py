"""`mirror ls`, `du`, `inspect`, `files`, `diff` and `compare`, as a person reads them."""

from collections.abc import Sequence

from msgspec.structs import replace
from rich.text import Text

from mirror.config import Config
from mirror.contents import models, questions
from mirror.contents.models import RepositorySummary
from mirror.control.api.contents import COMPARE
from mirror.control.units import date, printable, size
from mirror.operate.asking import RunningMirror
from mirror.operate.looking import Looker, looking
from mirror.operate.printing import Cell, say, say_json, say_table

_PAGE = 1000
_MOST_LINES = 10_000  # of files, before somebody should ask for a part
_DIGEST = 19  # characters: sha256: and twelve more
_MINUTES = 16  # characters of a time, up to its minutes
_STEP = 100  # characters of what made a layer
_SHARING = 3  # images that are named
_PERSONAL = "(personal)"


async def ls(config: Config, repository: str | None, *, as_json: bool) -> bool:
    """Repositories by name, or one's images."""
    async with looking(config) as looker:
        if repository is None:
            return _show_repositories(await _repositories(looker), as_json=as_json)
        found = await _images(looker, repository)
    if as_json:
        say_json(found)
        return True
    say_table(
        ("image", "all", "only here", "shared", "blobs", "last pull", "checked", "pulls", "served",
         "tags"),
        [
            (
                one.digest[:_DIGEST], *_sizes(one.sizes), f"{one.sizes.blobs} of {one.named}",
                _time(one.last_pull), _time(one.checked_at), *_uses(one), _tags(one),
            )
            for one in found.images
        ],
        right="all|only here|shared|blobs|pulls|served",
    )  # fmt: skip
    return True


async def du(config: Config, *, as_json: bool) -> bool:
    """Repositories by what they alone take, the largest first, and the sums."""
    async with looking(config) as looker:
        found = await _repositories(looker)
    found.sort(key=lambda one: (-one.sizes.only_here, -one.sizes.bytes, one.name))
    return _show_repositories(found, as_json=as_json)


async def inspect(config: Config, question: questions.GetImage, *, as_json: bool) -> bool:
    """One image."""
    async with looking(config) as looker:
        image = await looker.ask(question, models.Image)
    if as_json:
        say_json(image)
    else:
        _show_image(image)
    return image.trouble is None


async def files(config: Config, question: questions.ListFiles, *, as_json: bool) -> bool:
    """What is at a path of an image; whether all layers could be read."""
    async with looking(config) as looker:
        found = await looker.ask(question, models.Files)
        while found.after and len(found.files) < _MOST_LINES:
            page = await looker.ask(replace(question, after=found.after), models.Files)
            found = replace(found, files=[*found.files, *page.files], after=page.after)
    if as_json:
        say_json(found)
    else:
        _show_files(found)
    return not found.unread


async def diff(config: Config, question: questions.DiffImages, *, as_json: bool) -> bool:
    """What is another way; whether all layers could be read."""
    async with looking(config) as looker:
        found = await looker.ask(question, models.Diff)
        while found.after and len(found.changes) < _MOST_LINES:
            page = await looker.ask(replace(question, after=found.after), models.Diff)
            found = replace(found, changes=[*found.changes, *page.changes], after=page.after)
    if as_json:
        say_json(found)
    else:
        _show_diff(found)
    return not found.unread


async def compare(config: Config, question: questions.CompareImage, *, as_json: bool) -> bool:
    """What each endpoint says; whether none says another thing."""
    found = RunningMirror(config).post(COMPARE, question, models.Comparison)
    if as_json:
        say_json(found)
    else:
        _show_comparison(found)
    return all(one.verdict == "same" for one in found.endpoints if one.tags == "true")


# Pages


async def _repositories(looker: Looker) -> list[RepositorySummary]:
    question = questions.ListRepositories(limit=_PAGE)
    page = await looker.ask(question, models.Repositories)
    found = list(page.repositories)
    while page.after:
        page = await looker.ask(replace(question, after=page.after), models.Repositories)
        found += page.repositories
    return found


async def _images(looker: Looker, repository: str) -> models.Images:
    question = questions.ListImages(repository=repository, limit=_PAGE)
    found = await looker.ask(question, models.Images)
    while found.after:
        page = await looker.ask(replace(question, after=found.after), models.Images)
        found = replace(found, images=[*found.images, *page.images], after=page.after)
    return found


# What is shown


def _show_repositories(found: list[RepositorySummary], *, as_json: bool) -> bool:
    if as_json:
        say_json(models.Repositories(repositories=found, after=None))
        return True
    say_table(
        (
            "repository", "all", "only here", "shared", "blobs", "tags", "last pull", "pulls",
            "served",
        ),
        [
            (
                f"{one.name} {_PERSONAL}" if one.is_personal else one.name, *_sizes(one.sizes),
                str(one.sizes.blobs), str(one.tags), _time(one.last_pull), *_uses(one),
            )
            for one in found
        ],
        right="all|only here|shared|blobs|tags|pulls|served",
    )  # fmt: skip
    total = sum(one.sizes.bytes for one in found)
    alone = sum(one.sizes.only_here for one in found)
    say(
        f"{len(found)} repositories: {size(total)} without sharing,"
        f" {size(alone)} of it in one repository only"
    )
    return True


def _uses(one: RepositorySummary | models.ImageSummary) -> tuple[str, str]:
    """What was pulled of it in the last 30 days, as far as that is known."""
    if one.pulls is None or one.served is None:
        return "-", "-"
    return str(one.pulls), size(one.served)


def _show_image(image: models.Image) -> None:
    mark = f" {_PERSONAL}" if image.is_personal else ""
    say(Text(printable(f"{image.name}{mark}"), "bold"))
    say(f"  digest     {image.digest}")
    if (meaning := image.meaning) is not None:
        by = f" by {meaning.told_by}" if meaning.told_by else ""
        instead = ", in place of the registry" if meaning.is_fallback else ""
        since = f", so since {_time(meaning.since)}" if meaning.since else ""
        how = "imported, by a bundle of" if meaning.is_imported else "confirmed"
        say(f"  tag        {how} {_time(meaning.checked_at)}{by}{instead}{since}")
    if image.tags:
        say(f"  tags       {' '.join(image.tags)}")
    alone, shared = size(image.sizes.only_here), size(image.sizes.shared)
    say(f"  here       {size(image.sizes.bytes)}: {alone} only here, {shared} shared")
    if image.trouble is None:
        having = "" if image.having is None else f"; {size(image.missing)} with {image.having}"
        say(
            f"  platform   {image.platform or '-'}: a host downloads {size(image.download)}{having}"
        )
    say()
    say_table(
        ("manifest", "size", "kind", "platform", "here"),
        [
            (
                "  " * one.depth + one.digest[:_DIGEST], size(one.size), one.kind,
                one.platform or "-", "yes" if one.is_here else "no",
            )
            for one in image.manifests
        ],
        right="size",
    )  # fmt: skip
    if image.trouble is not None:
        say()
        say(f"mirror: {image.trouble}")
    _show_layers(image)
    if image.referrers:
        say()
        say_table(
            ("refers to it", "kind", "known from", "here"),
            [
                (one.digest[:_DIGEST], one.kind, one.source, "yes" if one.is_here else "no")
                for one in image.referrers
            ],
        )


def _show_layers(image: models.Image) -> None:
    if not image.layers:
        return
    say()
    heads = ["layer", "digest", "size", "here", "shared with", "made by"]
    say_table(
        heads,
        [
            (
                str(one.number), one.digest[:_DIGEST], size(one.size),
                "yes" if one.is_here else "no", _shared(one), _made(one.created_by),
            )
            for one in image.layers
        ],
        right="layer|size",
    )  # fmt: skip


def _show_files(found: models.Files) -> None:
    say_table(
        ("mode", "owner", "size", "layer", "path"),
        [row for one in found.files for row in _file_rows(one, is_one=len(found.files) == 1)],
        right="size|layer",
    )
    _show_unread(found.unread, found.after)


def _file_rows(file: models.File, *, is_one: bool) -> list[tuple[Cell, ...]]:
    link = f" -> {file.link}" if file.link else ""
    below = f" ({file.files} files)" if file.files > 1 else ""
    path: Cell = f"{file.path}{link}{below}"
    if file.type == "x":
        layer = f", which layer {file.earlier[0].layer} had put there" if file.earlier else ""
        path = Text(printable(f"{file.path}{below}: removed{layer}"), "red")
    rows: list[tuple[Cell, ...]] = [
        (_mode(file.type, file.mode), f"{file.owner}:{file.group}", size(file.size),
         str(file.layer), path)
    ]  # fmt: skip
    if is_one:
        rows += [
            (_mode(one.type, one.mode), "", size(one.size), str(one.layer), "  before that")
            for one in file.earlier
        ]
    return rows


def _show_diff(found: models.Diff) -> None:
    signs = {"added": "+", "removed": "-", "changed": "~"}
    styles = {"added": "green", "removed": "red", "changed": "yellow"}
    for one in found.changes:
        sizes = {
            "added": size(one.other_size), "removed": size(one.size),
            "changed": f"{size(one.size)} -> {size(one.other_size)}; {', '.join(one.what)}",
        }[one.kind]  # fmt: skip
        line = f"{signs[one.kind]} {one.path} ({sizes})"
        say(Text(printable(line), styles[one.kind]))
    if not found.changes:
        say("the same files")
    say(f"{found.shared_layers} layers are in both")
    _show_unread(found.unread, found.after)


def _show_unread(unread: Sequence[str], after: str | None) -> None:
    for one in unread:
        say(f"mirror: not read: {one}")
    if after:
        say(f"mirror: there is more, after {after}: ask for a part (PATH)")


def _show_comparison(found: models.Comparison) -> None:
    if found.digest is None:
        say(f"{found.name}: not here")
    else:
        made = f", made {_minutes(found.created)}" if found.created else ""
        checked = f", confirmed {_time(found.checked_at)}" if found.checked_at else ""
        say(f"{found.name}: here {found.digest[:_DIGEST]}{made}{checked}")
    styles = {"same": "green", "older": "yellow", "newer": "yellow", "differs": "yellow"}
    say_table(
        ("endpoint", "tag", "digest", "made", "has what is here", "pulls left"),
        [
            (
                one.endpoint, Text(one.verdict, styles.get(one.verdict, "")),
                (one.digest or "-")[:_DIGEST], _minutes(one.created), _bytes(one),
                "-" if one.pulls_left is None else str(one.pulls_left),
            )
            for one in found.endpoints
        ],
    )  # fmt: skip
    for one in found.endpoints:
        if one.trouble:
            say(f"{one.endpoint}: {one.trouble}")
    if pulls := sum(one.pulls for one in found.endpoints):
        say(f"this has cost {pulls} pulls")


# Cells


def _sizes(sizes: models.Sizes) -> tuple[str, str, str]:
    return size(sizes.bytes), size(sizes.only_here), size(sizes.shared)


def _bytes(one: models.Compared) -> str:
    if one.has_manifest is None:
        return "not known"
    manifest = "the manifest" if one.has_manifest else "no such manifest"
    return f"{manifest}, {one.layers} of {one.of_layers} layers"


def _tags(image: models.ImageSummary) -> str:
    more = image.tag_count - len(image.tags)
    return " ".join(image.tags) + (f" and {more} more" if more else "") or "-"


def _shared(layer: models.Layer) -> str:
    if not layer.shared_count:
        return "nobody"
    more = layer.shared_count - _SHARING
    names = ", ".join(layer.shared_with[:_SHARING])
    return f"{names} and {more} more" if more > 0 else names


def _made(by: str) -> str:
    text = " ".join(by.removeprefix("/bin/sh -c ").removeprefix("#(nop) ").split())
    return text if len(text) <= _STEP else f"{text[:_STEP]}..."


def _mode(kind: str, mode: int) -> str:
    if kind == "x":
        return "removed"
    letters = "".join(
        letter if mode >> at & 1 else "-"
        for at, letter in zip(range(8, -1, -1), "rwxrwxrwx", strict=True)
    )
    return f"{kind}{letters}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else date(seconds)


def _minutes(text: str | None) -> str:
    return "-" if text is None else text[:_MINUTES].replace("T", " ")
