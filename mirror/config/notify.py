"""`[[notify]]`: who is told when something happens that somebody should know of."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from mirror.config.values import ReadableFile, Section

Occasion = Literal["upstream", "credentials", "digest-mismatch", "disk", "quota", "certificate"]
"""What somebody can be told of."""

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def parse_hook(text: str) -> str:
    """The address of a webhook. Raises ValueError, whose text quotes nothing: it may be a secret.

    Such as Slack's: whoever has it may write there.
    """
    not_one = ValueError('not a webhook\'s URL; write it like "https://hooks.example/mirror"')
    text = text.strip()
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        raise not_one from None
    if not usable or re.search(r"\s", text) or not text.isascii():
        raise not_one
    if "@" in parts.netloc:
        raise ValueError("holds credentials; they go into header_file")
    if parts.fragment:
        raise ValueError("a webhook's URL has no fragment")
    return text


class Notify(Section):
    """A webhook; `occasions` are those that it is told of, none: all of them.

    What is in `header_file` is sent as the header that is named by `header`.
    """

    url: Annotated[str, AfterValidator(parse_hook)] | None = None
    url_file: ReadableFile | None = None
    occasions: tuple[Occasion, ...] = ()
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "Authorization"
    header_file: ReadableFile | None = None
    ca_file: ReadableFile | None = None

    @model_validator(mode="after")
    def _there_is_one_address(self) -> Self:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("write either url, or url_file where the address itself is a secret")
        return self

    @model_validator(mode="after")
    def _secrets_are_not_sent_in_the_clear(self) -> Self:
        if self.url is not None and self.header_file is not None:
            require_secrecy(self.url)
        return self

    @property
    def where(self) -> str:
        """As it may stand in a log: nothing of the address but whose it is."""
        if self.url is None:
            return str(self.url_file)
        return urlsplit(self.url).hostname or ""

    def read_address(self) -> str:
        """The address, as it is now. Raises OSError, ValueError."""
        if self.url_file is None:
            assert self.url is not None  # noqa: S101 - as was validated
            return self.url
        address = parse_hook(self.url_file.read_text(encoding="utf-8"))
        require_secrecy(address)
        return address

    def read_headers(self) -> dict[str, str]:
        """What goes with each request, as it is now. Raises OSError, ValueError."""
        if self.header_file is None:
            return {}
        return {self.header: _read_secret(self.header_file)}


def require_secrecy(address: str) -> None:
    """See that nobody on the way can read what goes there. Raises ValueError."""
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError("would be sent a secret in the clear: write https://")


def _read_secret(file: Path) -> str:
    secret = file.read_text(encoding="utf-8").strip()
    if not secret or not secret.isprintable() or not secret.isascii():
        raise ValueError("header_file holds nothing that a header may hold: one line of ASCII")
    return secret
