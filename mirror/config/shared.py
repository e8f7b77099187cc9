"""`[shared]`: several mirrors that are one cache, on a PostgreSQL database and a bucket.

Without the section a mirror is by itself, and nothing of this is loaded. What the files hold is
read where it is used (`mirror.shared.address`): no secret is part of the configuration.
"""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, field_validator

from mirror.config.units import format_duration
from mirror.config.values import Duration, ReadableFile, Section, Size, not_zero

_BUCKET = re.compile(r"(?P<scheme>s3|gs|az)://(?P<name>[a-z0-9][a-z0-9._-]{1,62})(?P<prefix>/.*)?")
_PREFIX_PART = re.compile(r"[A-Za-z0-9!_.*'()-]+")  # S3: what is safe in a key
_LONGEST_PREFIX = 256
_LEASE = (1.0, 300.0)  # seconds


def _bucket(url: str) -> str:
    # What is quoted of it nowhere is what may be a password that was pasted.
    not_a_bucket = ValueError(
        'not a bucket; write it like "s3://mirror-cache/prefix" (or gs://, az://)'
    )
    match = _BUCKET.fullmatch(url.strip())
    if match is None:
        raise not_a_bucket
    prefix = (match["prefix"] or "").strip("/")
    parts = prefix.split("/") if prefix else []
    if len(prefix) > _LONGEST_PREFIX or any(
        _PREFIX_PART.fullmatch(part) is None or part in {".", ".."} for part in parts
    ):
        raise not_a_bucket
    return f"{match['scheme']}://{match['name']}" + (f"/{prefix}" if prefix else "")


def _a_lease(seconds: float) -> float:
    least, most = _LEASE
    if not least <= seconds <= most:
        raise ValueError(f'must be from "{format_duration(least)}" to "{format_duration(most)}"')
    return seconds


class Shared(Section):
    """What several mirrors have in common. `lease` in seconds, `max_size` in bytes."""

    database_file: ReadableFile
    bucket: Annotated[str, AfterValidator(_bucket)]
    endpoint: str | None = None
    region: Annotated[str, AfterValidator(str.strip)] | None = None
    credentials_file: ReadableFile | None = None
    lease: Annotated[Duration, AfterValidator(_a_lease)] = 15.0
    max_size: Annotated[Size, AfterValidator(not_zero)] = 2 * 2**40
    redirect: Literal["never", "large"] = "never"

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_a_server(cls, url: str | None) -> str | None:
        if url is None:
            return None
        not_a_server = ValueError(
            'not the URL of a server; write it like "https://s3.example:8333"'
        )
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:
            raise not_a_server from None
        if not usable or re.search(r"\s", url) or parts.query or parts.fragment:
            raise not_a_server
        if "@" in parts.netloc:
            raise ValueError("holds credentials; they go into credentials_file")
        return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"
