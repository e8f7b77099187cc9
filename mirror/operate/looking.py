"""Asks what is in the cache: a running mirror, or else its store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from mirror.config import Config, aliases_of
from mirror.contents.contents import Contents
from mirror.contents.manifests import NotHere
from mirror.control.api.contents import ASKING, Asking
from mirror.operate.asking import NoAnswer, NotRunning, RunningMirror
from mirror.operate.at_rest import open_at_rest
from mirror.storage.files import InUse

_Answer = TypeVar("_Answer", bound=msgspec.Struct)

_PATIENCE = 150.0  # seconds: large layers take theirs

_OF = {one.question: one for one in ASKING}


class Looker:
    """Asks questions of `mirror.contents.questions`."""

    def __init__(self, running: RunningMirror, contents: Contents | None) -> None:
        self._running = running
        self._contents = contents

    async def ask(self, question: msgspec.Struct, answer: type[_Answer]) -> _Answer:
        """What is answered. Raises NoAnswer, StoreError."""
        of = _OF[type(question)]
        if self._contents is None:
            return self._running.get(_path(of, question), answer, patience=_PATIENCE)
        try:
            found = await getattr(self._contents, of.method)(question)
        except (NotHere, ValueError) as error:
            raise NoAnswer(str(error)) from error
        assert isinstance(found, answer)  # noqa: S101 - as the table says
        return found


def _personal(config: Config) -> set[str]:
    return {name for name, its in config.upstream.items() if its.access == "client"}


@asynccontextmanager
async def looking(config: Config) -> AsyncIterator[Looker]:
    """Look at the mirror of this configuration, or, where none runs, at its store.

    Raises:
        NoAnswer: There is one, and it does not answer.
        StoreError: The store cannot be used.
    """
    running = RunningMirror(config)
    try:
        running.get("/endpoints", msgspec.Struct)
    except NotRunning as error:
        try:
            async with (
                open_at_rest(config) as (store, records),
                Contents.open(
                    store, records, _personal(config), aliases_of(config.upstream)
                ) as contents,
            ):
                yield Looker(running, contents)
        except InUse:
            raise error from None
    else:
        yield Looker(running, None)


def _path(of: Asking, question: msgspec.Struct) -> str:
    values = msgspec.to_builtins(question)
    texts = {name: _text(value) for name, value in values.items() if value not in {"", None}}
    return f"{of.path}?{urlencode(texts)}"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
