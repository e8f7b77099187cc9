"""Reads layers in a process of its own, by next to nothing but the standard library (`files.py`).

A JSON object a line asks, another one answers:

    {"ask": "files", "layers": [[DIGEST, FILE], ...], "path", "recursive", "removed", "after",
     "limit"}                     what is in an image
    {"ask": "layer", "layers": [[DIGEST, FILE]], "after", "limit"}    what one layer holds
    {"ask": "diff", "layers", "other": [[DIGEST, FILE], ...], "path", "after", "limit"}

It is of Linux's idle class: pulls go first. What it has read last it remembers, and it ends after a
while without questions, or with its standard input.
"""

import json
import os
import resource
import select
import sys
from collections import OrderedDict
from contextlib import suppress
from itertools import islice
from typing import Any

from mirror.contents.file_tree import Node, Tree, compare
from mirror.contents.layer_tar import Entry, Unreadable, read_layer

_IDLE = 60.0  # seconds without a question
_NICE = 10
_MEMORY = 3 * 2**29  # bytes
_REMEMBERED = 200_000  # entries of layers
_MOST = 400_000  # entries of one image
_LARGEST_PAGE = 2**20  # characters of paths, about
_EARLIER = 8  # versions of a file that are told

Layers = list[list[str]]


class Reader:
    """Answers questions."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, list[Entry]] = OrderedDict()
        self._tree: tuple[tuple[str, ...], Tree, list[str]] | None = None

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """What is asked for."""
        if question["ask"] == "layer":
            return self._layer(question)
        tree, unread = self._laid(question["layers"])
        path, after, limit = question["path"], question["after"], question["limit"]
        if question["ask"] == "diff":
            other, unread_too = self._laid(question["other"])
            pairs = compare(tree, other, path, after)
            page, last = _page((_change(tree, other, *it) for it in pairs), limit)
            return {"changes": page, "after": last, "unread": [*unread, *unread_too]}
        found = tree.find(path)
        if found is None:
            return {"files": None, "unread": unread}
        if not found.children and found.versions:  # it is no directory: itself
            return {"files": [_file(path, found)], "unread": unread, "after": None}
        walked = tree.walk(
            path, recursive=question["recursive"], removed=question["removed"], after=after
        )
        page, last = _page((_file(*it) for it in walked), limit)
        return {"files": page, "after": last, "unread": unread}

    def _layer(self, question: dict[str, Any]) -> dict[str, Any]:
        ((digest, path),) = question["layers"]
        try:
            entries = self._read(digest, path)
        except Unreadable as error:
            return {"files": [], "unread": [f"{digest}: {error}"], "after": None}
        start = int(question["after"] or 0)
        rest = enumerate(islice(entries, start, None), start + 1)
        page, _ = _page((_raw(number, it) for number, it in rest), question["limit"])
        end = start + len(page)
        return {
            "files": page, "unread": [], "after": str(end) if end < len(entries) else None,
        }  # fmt: skip

    def _laid(self, layers: Layers) -> tuple[Tree, list[str]]:
        key = tuple(digest for digest, _ in layers)
        if self._tree is not None and self._tree[0] == key:
            return self._tree[1:]
        read, unread, count = list[list[Entry]](), list[str](), 0
        for digest, path in layers:
            entries = list[Entry]()
            try:
                entries = self._read(digest, path, most=_MOST - count)
            except Unreadable as error:
                unread.append(f"{digest}: {error}")
            count += len(entries)
            read.append(entries)
        tree = Tree(read)
        self._tree = (key, tree, unread)
        return tree, unread

    def _read(self, digest: str, path: str, *, most: int = _MOST) -> list[Entry]:
        if digest not in self._known:
            if not path:
                raise Unreadable("it is not here")
            try:
                self._known[digest] = list(read_layer(path))
            except OSError as error:
                raise Unreadable(os.strerror(error.errno or 0)) from error
        self._known.move_to_end(digest)
        while len(self._known) > 1 and sum(map(len, self._known.values())) > _REMEMBERED:
            self._known.popitem(last=False)
        if len(self._known[digest]) > most:
            raise Unreadable(f"the image has more than {_MOST} entries")
        return self._known[digest]


def _page(items: Any, limit: int) -> tuple[list[dict[str, Any]], str | None]:
    """So many of them, and no more than fit; what the last is called, if there may be more."""
    page, size = list[dict[str, Any]](), 0
    for item in items:
        page.append(item)
        links = (it.get("link", "") for it in (item, *item.get("earlier", ())))
        size += len(item["path"]) + sum(map(len, links)) + 200
        if len(page) == limit or size > _LARGEST_PAGE:
            return page, item["path"]
    return page, None


def _file(path: str, node: Node) -> dict[str, Any]:
    number, entry = node.versions[-1]
    earlier = [
        {
            "layer": layer, "type": it.type, "mode": it.mode, "size": it.size,
            "modified": it.modified, "link": it.link, "checksum": it.checksum,
        }
        for layer, it in reversed(node.versions[:-1])
    ]  # fmt: skip
    return _entry(path, number, entry) | {
        "size": node.size, "files": node.files, "earlier": earlier[:_EARLIER],
    }  # fmt: skip


def _raw(number: int, entry: Entry) -> dict[str, Any]:
    """What a layer says, and not what it comes to."""
    del number
    return _entry(entry.path, 0, entry) | {"files": int(entry.type == "-"), "earlier": []}


def _entry(path: str, number: int, entry: Entry) -> dict[str, Any]:
    return {
        "path": path, "layer": number, "type": entry.type, "mode": entry.mode,
        "owner": entry.owner, "group": entry.group, "size": entry.size,
        "modified": entry.modified, "link": entry.link,
    }  # fmt: skip


def _change(before: Tree, now: Tree, path: str, what: list[str]) -> dict[str, Any]:
    old, new = before.find(path), now.find(path)
    kind = what[0] if what[0] in {"added", "removed"} else "changed"
    return {
        "path": path, "kind": kind, "what": what if kind == "changed" else [],
        "size": old.size if old is not None and kind != "added" else 0,
        "other_size": new.size if new is not None and kind != "removed" else 0,
    }  # fmt: skip


def main() -> None:
    """Answer questions until there are no more."""
    with suppress(OSError):
        os.nice(_NICE)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    reader = Reader()
    while select.select([sys.stdin], [], [], _IDLE)[0] and (line := sys.stdin.readline()):
        try:
            answer = reader.answer(json.loads(line))
        except MemoryError:
            reader = Reader()
            answer = {"trouble": "what stands in its layers takes too much memory"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
