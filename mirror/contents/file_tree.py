"""An image's files: its layers laid over each other, with what each has hidden (layer.md). Pure.

A path keeps all of its versions, so that it can be told which layer has put it there, and which has
taken it away.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mirror.contents.layer_tar import Entry, normalized

_REMOVED, _OPAQUE, _DIRECTORY = "x", "o", "d"

# A directory of which a layer says nothing but what is in it; it has no path, so that it is known.
_IMPLIED = Entry("", _DIRECTORY, 0o755, 0, 0, 0, 0.0, "", "")

Version = tuple[int, Entry]
"""The number of a layer, and what it has put there."""


@dataclass(slots=True)
class Node:
    """A name in a directory. `versions`: the latest last; one of type "x" has removed it.

    `size` and `files` are of all that is below it, or was when it was removed.
    """

    versions: list[Version] = field(default_factory=list)
    children: "dict[str, Node] | None" = None
    size: int = 0
    files: int = 0

    @property
    def is_there(self) -> bool:
        """Whether it is in the image."""
        return not self.versions or self.versions[-1][1].type != _REMOVED

    @property
    def is_directory(self) -> bool:
        """Whether it is one; the root is."""
        return not self.versions or self.versions[-1][1].type == _DIRECTORY


class Tree:
    """The files of layers, the lowest first."""

    def __init__(self, layers: Iterable[Iterable[Entry]]) -> None:
        self.root = Node()
        for number, entries in enumerate(layers):
            self._lay(number, list(entries))
        self._count()

    def find(self, path: str) -> Node | None:
        """What is, or was, at a path."""
        node: Node | None = self.root
        for name in _names(path):
            node = (node.children or {}).get(name) if node is not None else None
        return node

    def walk(
        self, path: str, *, recursive: bool, removed: bool, after: str = ""
    ) -> Iterator[tuple[str, Node]]:
        """What is in a directory, in the order of the paths' names, `after` one of these."""
        top = self.find(path)
        base = "/" + "/".join(_names(path))
        start = _names(after.removeprefix(base)) if after else []
        if top is not None:
            yield from _walk(top, base.rstrip("/"), start, recursive=recursive, removed=removed)

    def _lay(self, number: int, entries: list[Entry]) -> None:
        # What a layer hides is of lower layers, wherever it says so.
        for entry in entries:
            if entry.type in {_REMOVED, _OPAQUE}:
                node = self.find(entry.path)
                if node is not None and entry.type == _OPAQUE:
                    for child in (node.children or {}).values():
                        _remove(child, number, entry)
                elif node is not None and node is not self.root:
                    _remove(node, number, entry)
        for entry in entries:
            if entry.type not in {_REMOVED, _OPAQUE}:
                self._put(number, entry)

    def _put(self, number: int, entry: Entry) -> None:
        node = self.root
        for name in _names(entry.path):
            if node is not self.root and not (node.versions and node.is_there):
                node.versions.append((number, _IMPLIED))
            if node.children is None:
                node.children = {}
            node = node.children.setdefault(name, Node())
        if node is self.root:
            return
        if node.versions and node.versions[-1][0] == number:
            node.versions.pop()  # said twice: the last counts
        node.versions.append((number, entry))
        if entry.type != _DIRECTORY:
            for child in (node.children or {}).values():
                _remove(child, number, entry)

    def _count(self) -> None:
        """Sum up what is below each."""
        order, waiting = list[Node](), [self.root]
        while waiting:
            node = waiting.pop()
            order.append(node)
            waiting += (node.children or {}).values()
        for node in reversed(order):
            node.size, node.files = _own(node)
            for child in (node.children or {}).values():
                if child.is_there or (not node.is_there and _went(child) == _went(node)):
                    node.size += child.size
                    node.files += child.files


def compare(before: Tree, now: Tree, path: str, after: str = "") -> Iterator[tuple[str, list[str]]]:
    """The paths that are another way, in order, `after` one of them; and what of each is.

    Of what is on one side alone: ["added"], ["removed"]; what is in it is not told one by one.
    """
    base = "/" + "/".join(_names(path))
    start = _names(after.removeprefix(base)) if after else []
    old, new = before.find(path), now.find(path)
    stack = [_both(old, new, base.rstrip("/"), start)]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
            continue
        where, left, right, rest, is_past = item
        if left is None or right is None or not (left.is_there and right.is_there):
            if is_past and (_is_in(left) or _is_in(right)):
                yield where, ["removed" if _is_in(left) else "added"]
            continue
        if is_past and (found := _changes(left, right)):
            yield where, found
        if left.is_directory and right.is_directory:
            stack.append(_both(left, right, where, rest))


_Pair = tuple[str, Node | None, Node | None, list[str], bool]


def _both(left: Node | None, right: Node | None, where: str, start: list[str]) -> Iterator[_Pair]:
    ours: Mapping[str, Node] = (left.children if left else None) or {}
    theirs: Mapping[str, Node] = (right.children if right else None) or {}
    for name in sorted(ours.keys() | theirs.keys()):
        if start and name < start[0]:
            continue
        is_start = bool(start) and name == start[0]
        yield (
            f"{where}/{name}", ours.get(name), theirs.get(name),
            start[1:] if is_start else [], not is_start,
        )  # fmt: skip


def _changes(left: Node, right: Node) -> list[str]:
    old, new = left.versions[-1][1], right.versions[-1][1]
    if _IMPLIED in {old, new}:
        return ["type"] if old.type != new.type else []
    names = {"type": 1, "mode": 2, "owner": 3, "group": 4, "size": 5, "link": 7, "content": 8}
    return [name for name, position in names.items() if old[position] != new[position]]


def _is_in(node: Node | None) -> bool:
    return node is not None and node.is_there


def _walk(
    top: Node, base: str, start: list[str], *, recursive: bool, removed: bool
) -> Iterator[tuple[str, Node]]:
    stack = [_children(top, base, start)]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
            continue
        path, node, rest, is_past = item
        if not (removed or node.is_there):
            continue
        if is_past:
            yield path, node
        if recursive and node.is_there and node.children:
            stack.append(_children(node, path, rest))


def _children(
    node: Node, where: str, start: list[str]
) -> Iterator[tuple[str, Node, list[str], bool]]:
    children = node.children or {}
    for name in sorted(children):
        if start and name < start[0]:
            continue
        is_start = bool(start) and name == start[0]
        yield f"{where}/{name}", children[name], start[1:] if is_start else [], not is_start


def _remove(top: Node, number: int, entry: Entry) -> None:
    """A layer hides this, and all below it with it."""
    gone = (number, Entry("", _REMOVED, 0, 0, 0, 0, entry.modified, "", ""))
    waiting = [top]
    while waiting:
        node = waiting.pop()
        if node.is_there:
            node.versions.append(gone)
            waiting += (node.children or {}).values()


def _went(node: Node) -> int:
    """Which layer has spoken of it last."""
    return node.versions[-1][0] if node.versions else -1


def _own(node: Node) -> tuple[int, int]:
    """Bytes and files of this by itself; of what is removed, as it was."""
    there = [entry for _, entry in node.versions if entry.type != _REMOVED]
    if not there or there[-1].type == _DIRECTORY:
        return 0, 0
    return there[-1].size, 1


def _names(path: str) -> list[str]:
    clean = normalized(path)
    return [] if clean is None else clean.split("/")[1:] if clean != "/" else []
