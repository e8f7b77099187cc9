"""Asks what is in the cache: a running mirror, or else its store."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from mirror.config import Config, aliases_of
from mirror.contents.contents import Contents
from mirror.contents.manifests import NotHere
from mirror.control.api.contents import ASKING, Asking
from mirror.control.api.using import Using
from mirror.operate.asking import NoAnswer, NotRunning, RunningMirror
from mirror.operate.at_rest import open_at_rest
from mirror.operate.past import open_history
from mirror.storage.files import InUse

_Answer = TypeVar("_Answer", bound=msgspec.Struct)

_PATIENCE = 150.0  # seconds: large layers take theirs

_wall_clock = time.time  # noqa: TID251 - what was pulled of late is told of a store at rest
_OF = {one.question: one for one in ASKING}


class Looker:
    """Asks questions of `mirror.contents.questions`."""

    def __init__(
        self, running: RunningMirror, contents: Contents | None, using: Using | None = None
    ) -> None:
        self._running = running
        self._contents = contents
        self._using = using

    async def ask(self, question: msgspec.Struct, answer: type[_Answer]) -> _Answer:
        """What is answered. Raises NoAnswer, StoreError."""
        of = _OF[type(question)]
        if self._contents is None:
            return self._running.get(_path(of, question), answer, patience=_PATIENCE)
        try:
            answers = getattr(self._using, of.method, None) or getattr(self._contents, of.method)
            found = await answers(question)
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
                open_history(config, is_stopped=True) as history,
            ):
                yield Looker(running, contents, Using(contents, history, _wall_clock))
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
