"""Images' names as people write them, with their registry: `ghcr.io/org/app:1`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError
from mirror.oci.reference import Reference, Repository, parse_reference, parse_repository

DOCKER_HUB = "docker.io"
"""Docker Hub's name in image names, and what is meant where there is no other."""

Image = tuple[Repository, Reference]

Aliases = Mapping[str, str]
"""Registries' other names, with the names that they go by here."""

_NONE: Aliases = MappingProxyType({})

_PATTERN = re.compile(r"[A-Za-z0-9_.*?-]{1,128}")


@dataclass(frozen=True, slots=True)
class Images:
    """One image, or all of a repository whose tags are like `pattern` ("*", "?")."""

    repository: Repository
    reference: Reference | None
    pattern: str | None = None

    def __str__(self) -> str:
        if self.reference is not None:
            return name_of(self.repository, self.reference)
        return f"{self.repository}:{self.pattern}"


def parse_image(text: str, aliases: Aliases = _NONE) -> Image:
    """An image's name, as docker reads it, of the registry that is meant. Raises ValueError."""
    name, _, digest = text.partition("@")
    head, _, tag = name.rpartition(":")
    if not head or "/" in tag:
        head, tag = name, "latest"
    namespace, _, repository = head.partition("/")
    if not ("." in namespace or ":" in namespace or namespace == "localhost"):
        namespace, repository = DOCKER_HUB, head
    namespace = aliases.get(namespace, namespace)
    if namespace == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    try:
        found = Repository(namespace, parse_repository(repository))
        return found, parse_reference(digest or tag)
    except RegistryError as error:
        raise ValueError(f"{text}: {error.message}") from error


def parse_images(text: str, aliases: Aliases = _NONE) -> Images:
    """An image's name, of which the tag may be a pattern. Raises ValueError."""
    name, colon, tag = text.rpartition(":")
    if colon and ("*" in tag or "?" in tag) and "/" not in tag:
        if _PATTERN.fullmatch(tag) is None:
            raise ValueError(f"{text}: no tag is like that")
        return Images(parse_image(name, aliases)[0], None, tag)
    return Images(*parse_image(text, aliases))


def name_of(repository: Repository, reference: Reference) -> str:
    """An image's whole name: with its registry, and its tag or digest."""
    return f"{repository}{'@' if isinstance(reference, Digest) else ':'}{reference}"


def full_name(text: str, aliases: Aliases = _NONE) -> str:
    """The whole name of an image that somebody calls so. Raises ValueError."""
    return name_of(*parse_image(text, aliases))
