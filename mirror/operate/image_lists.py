"""Lists of images: plain, of a Compose file, or of Kubernetes manifests.

plain        an image a line; what follows "#" is a remark
Compose      `image` of each service
Kubernetes   `image` of each container, init and ephemeral ones too, of workloads of all kinds,
in any number of documents
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_LARGEST = 16 * 2**20  # bytes
_DEEPEST = 40
_MOST = 200_000  # values looked at, or merged: YAML's aliases make much of little
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_VOLUMES = "volumes"
_MERGE = "tag:yaml.org,2002:merge"
_ODD = (AttributeError, LookupError, TypeError)  # of PyYAML's, for such as "!!int ''"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_images(path: Path) -> list[str]:
    """The images that a file names, each once, in its order.

    Raises:
        ValueError: It is none of the three, or names none; in words for an operator.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    if len(content) > _LARGEST:
        raise ValueError(f"{path} is larger than any list of images")
    try:
        text = content.decode("utf-8-sig")
        found = list(dict.fromkeys(_find(text)))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, *_ODD) as error:
        raise ValueError(f"{path} is no list of images: {error}") from error
    if not found:
        raise ValueError(f"{path} names no image")
    return found


def _find(text: str) -> Iterator[str]:
    documents = [it for it in _parse(text) if it is not None]
    if documents and all(isinstance(it, dict) for it in documents):
        left = [_MOST]
        for document in documents:
            yield from _of_compose(document)
            yield from _of_workloads(document, _DEEPEST, left)
        return
    for line in text.splitlines():
        name = line.partition("#")[0].strip()
        if name:
            yield name


def _parse(text: str) -> list[Any]:
    """The documents, if that is YAML: a plain list of images is, too, but no mapping."""
    try:
        _require_shallow(text)
        return list(yaml.load_all(text, Loader=_Bounded))
    except yaml.YAMLError:
        if any(line.startswith(("apiVersion:", "services:")) for line in text.splitlines()):
            raise
        return []


def _require_shallow(text: str) -> None:
    """Raise ValueError for what is nested too deeply: to load it, libyaml calls itself."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError("this is no list of images: there is no end to it")


class _Bounded(_Loader):  # type: ignore[misc]  # whichever there is
    """Loads no more than `_MOST` entries by merging ("<<"), of which each may double the last."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._left = _MOST

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what is merged in its place; what that merges has been put in its own before."""
        for key, value in node.value:
            if key.tag == _MERGE:
                for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(one, yaml.MappingNode):
                        self.flatten_mapping(one)
                        self._left -= len(one.value)
                        if self._left < 0:
                            raise ValueError("this is no list of images: there is no end to it")
        super().flatten_mapping(node)


def _of_compose(document: dict[Any, Any]) -> Iterator[str]:
    services = document.get("services")
    for service in services.values() if isinstance(services, dict) else ():
        if isinstance(service, dict) and isinstance(service.get("image"), str):
            yield service["image"]


def _of_workloads(value: object, depth: int, left: list[int]) -> Iterator[str]:
    """Wherever something has containers: operators' own kinds have them in odd places."""
    left[0] -= 1
    if not depth or left[0] < 0:
        raise ValueError("this is no list of images: there is no end to it")
    if isinstance(value, dict):
        for key in (*_CONTAINERS, _VOLUMES):
            yield from _of_entries(value.get(key), left)
        value = [item for key, item in value.items() if key not in _CONTAINERS]
    if isinstance(value, list):
        for item in value:
            yield from _of_workloads(item, depth - 1, left)


def _of_entries(entries: object, left: list[int]) -> Iterator[str]:
    """The image of each container; and such as are mounted (`volumes[].image.reference`)."""
    for entry in entries if isinstance(entries, list) else ():
        left[0] -= 1
        image = entry.get("image") if isinstance(entry, dict) else None
        if isinstance(image, dict):
            image = image.get("reference")
        if isinstance(image, str):
            yield image
