"""What somebody does on a client's host, as text to be pasted. Pure."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mirror.config import DOCKER_HUB
from mirror.setup.view import Registry, View

_WIDTH = 100


@dataclass(frozen=True, slots=True)
class File:
    """A file to be written, or into which this belongs; `about` it, for a person."""

    path: str
    content: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Guide:
    """For one kind of client.

    `notes`: what it cannot do, and what else to know. `provide`: files that only the host's owner
    has, and what they hold. `then` and `check` are lines for a shell.
    """

    client: str
    title: str
    address: str
    notes: tuple[str, ...]
    files: tuple[File, ...]
    provide: tuple[tuple[str, str], ...]
    then: tuple[str, ...]
    check: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def quoted(text: str) -> str:
    """As a string in TOML, YAML and JSON alike."""
    return json.dumps(text)


def curl(view: View, certificates: str) -> str:
    """The beginning of a command that asks the mirror; `certificates` is where a host has them."""
    options = ["curl", "--silent", "--show-error", "--head"]
    if view.authority is not None:
        options.append(f"--cacert {certificates}/ca.crt")
    if view.wants_certificate:
        options.append(f"--cert {certificates}/client.cert --key {certificates}/client.key")
    if view.wants_password:
        options.append("--user NAME")
    return " ".join(options)


def asks(view: View, certificates: str) -> str:
    """A command that shows what the mirror says of an image: the line `Cache-Status`."""
    registry = example(view)
    path = f"/v2/{_repository(registry)}/manifests/latest?ns={registry.name}"
    return f"{curl(view, certificates)} '{view.address.url}{path}'"


def example(view: View) -> Registry:
    """The registry that a first pull is best made of."""
    return view.find(DOCKER_HUB) or view.registries[0]


def image_of(registry: Registry) -> str:
    """The name of an image there, for a first pull."""
    return f"{registry.name}/{_repository(registry)}"


def client_certificate(directory: str) -> tuple[tuple[str, str], ...]:
    """What to provide where the mirror wants certificates of clients."""
    authority = "an authority in server.client_ca_file"
    return (
        (f"{directory}/client.cert", f"this host's certificate, of {authority}"),
        (f"{directory}/client.key", "its key"),
    )


def _repository(registry: Registry) -> str:
    return "library/alpine" if registry.name == DOCKER_HUB else "ORG/APP"


def _lines(guide: Guide) -> Iterator[str]:
    yield from _comment(f"{guide.title}: pull through {guide.address}")
    for note in guide.notes:
        yield "#"
        yield from _comment(note)
    for file in guide.files:
        yield from _heading(file.path, file.about)
        yield file.content.rstrip("\n")
    for path, what in guide.provide:
        yield from _heading(path, f"{what}: yours to provide")
    for title, lines in (("then", guide.then), ("see that it works", guide.check)):
        if lines:
            yield from _heading(title, "")
            yield from lines


def _heading(text: str, about: str) -> Iterable[str]:
    return ["", f"# ---- {text}", *(_comment(about) if about else ())]


def _comment(text: str) -> Iterable[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent="# ", subsequent_indent="# ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
