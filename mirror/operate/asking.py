"""A running mirror, asked through its API, where the configuration says that it listens."""

import http.client
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import TypeVar

import msgspec

from mirror.config import Config
from mirror.config.units import format_listen
from mirror.control.guard import KEY_FIELD, KEY_FILE
from mirror.control.problems import ProblemDetails
from mirror.control.verify import Step

_PATIENCE = 10.0  # seconds
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a listener there is reached

_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class NoAnswer(Exception):
    """The mirror does not run, or does not do as it was asked; in words for an operator.

    `is_answered`: something answers there, which does not do so.
    """

    def __init__(self, message: str, *, is_answered: bool = False) -> None:
        super().__init__(message)
        self.is_answered = is_answered


class Refused(NoAnswer):
    """The mirror does not do as it was asked; `status` as over HTTP."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail, is_answered=True)
        self.status = status


class NotRunning(NoAnswer):
    """Nobody listens there."""


class RunningMirror:
    """The mirror that this configuration starts."""

    def __init__(self, config: Config) -> None:
        host, port = config.server.admin_listen
        self._address = _ANYWHERE.get(host, host), port
        self._token_file = config.admin.token_file
        self._wants_password = config.admin.htpasswd_file is not None
        self._key_file = config.store.root / KEY_FILE

    def verify(self, names: Sequence[str]) -> Iterator[Step]:
        """Have it hash what these mean (none: everything); each step as it happens.

        Raises NoAnswer.
        """
        where = self.where
        connection = http.client.HTTPConnection(*self._address)  # a large blob takes its time
        headers = self.headers() | {"Content-Type": "application/json"}
        try:
            body = msgspec.json.encode({"names": list(names)})
            connection.request("POST", "/api/v1/verify", body, headers)
            yield from _read_steps(connection.getresponse(), where)
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(
                f"a mirror uses the store, and none answers at {where} ({_why(error)}): is it of"
                " this configuration (server.admin_listen)?"
            ) from error
        finally:
            connection.close()

    def get(
        self, path: str, answer: type[_Answer], *, patience: float | None = _PATIENCE
    ) -> _Answer:
        """What the API says at a path below its root, within so many seconds. Raises NoAnswer."""
        return self._ask("GET", path, None, answer, patience=patience)

    def post(self, path: str, sent: msgspec.Struct, answer: type[_Answer]) -> _Answer:
        """Have something done that may take its time; what has come of it. Raises NoAnswer."""
        return self._ask("POST", path, sent, answer, patience=None)

    def _ask(
        self,
        method: str,
        path: str,
        sent: msgspec.Struct | None,
        answer: type[_Answer],
        *,
        patience: float | None,
    ) -> _Answer:
        where = self.where
        connection = http.client.HTTPConnection(*self._address, timeout=patience)
        body, headers = None, self.headers()
        if sent is not None:
            body = msgspec.json.encode(sent)
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, f"/api/v1{path}", body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotRunning(
                f"no mirror answers at {where} ({_why(error)}): is it running, and with this"
                " configuration (server.admin_listen)?"
            ) from error
        finally:
            connection.close()
        try:
            if response.status != HTTPStatus.OK:
                detail = msgspec.json.decode(content, type=ProblemDetails).detail
                raise Refused(response.status, detail if sent else f"{where}: {detail}")
            return msgspec.json.decode(content, type=answer)
        except msgspec.MsgspecError as error:
            raise NoAnswer(
                f"{where}: what answers there ({response.status}) is no mirror of this version",
                is_answered=True,
            ) from error

    @property
    def where(self) -> str:
        """Where it listens for operators, by the configuration."""
        return format_listen(self._address)

    def headers(self) -> dict[str, str]:
        """What shows that an operator asks. Raises NoAnswer."""
        if self._token_file is None:
            return self._key() if self._wants_password else self._key_if_any()
        try:
            token = self._token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise NoAnswer(f"admin.token_file cannot be read: {error.strerror}") from error
        return {"Authorization": f"Bearer {token}"}

    def headers_of_keeper(self) -> dict[str, str]:
        """What shows that somebody asks who may have what is in the store. Raises NoAnswer."""
        return self._key() if self._token_file is None else self.headers()

    def _key_if_any(self) -> dict[str, str]:
        """Without it one is told less, and that why."""
        try:
            return self._key()
        except NoAnswer:
            return {}

    def _key(self) -> dict[str, str]:
        try:
            return {KEY_FIELD: self._key_file.read_text(encoding="utf-8")}
        except FileNotFoundError as error:
            raise NotRunning(
                f"there is no {self._key_file}: no mirror has run there yet. If something uses the"
                " store, that is another command: try again when it has ended"
            ) from error
        except OSError as error:
            raise NoAnswer(
                f"{self._key_file} cannot be read ({error.strerror}): run this as the mirror's"
                " user, or set admin.token_file"
            ) from error


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _read_steps(response: http.client.HTTPResponse, where: str) -> Iterator[Step]:
    try:
        if response.status != HTTPStatus.OK:
            detail = msgspec.json.decode(response.read(), type=ProblemDetails).detail
            raise NoAnswer(f"{where}: {detail}")
        decode = msgspec.json.Decoder(Step).decode
        while line := response.readline():
            yield decode(line)
    except msgspec.MsgspecError as error:
        raise NoAnswer(
            f"{where}: what answers there ({response.status}) is no mirror of this version"
        ) from error
