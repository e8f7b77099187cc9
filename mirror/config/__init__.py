"""Every setting with its default; read once, then frozen.

The file's grammar is TOML; sizes are strings such as `"100 GiB"`, durations `"1m"`, secrets only
`*_file`: no secret is ever part of a Config. `config/mirror.toml` documents each setting and
equals the defaults (tested). What can be wrong is found here, at the door, and all of it at once.
"""

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

CONFIG_VARIABLE = "MIRROR_CONFIG"

_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,9})?)"
_SIZE = re.compile(rf"{_NUMBER}\s*([KMGT]i?B|B)")
_DURATION_PART = re.compile(rf"{_NUMBER}(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_LISTEN = re.compile(r"(?:\[(?P<ip6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5})")
_LAST_PORT = 65535
_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - names for all of a host's addresses
_SMALLEST_SEGMENT = 64 * 2**10
_MOST_WORKERS = 4  # by itself: they saturate 40 Gbit/s, and each has memory of its own
_SIZE_UNITS = {
    "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_DURATION_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


class ConfigError(Exception):
    """The configuration cannot be used; `problems` has a line for everything wrong in it."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.source = source
        self.problems = problems

    def __reduce__(self) -> tuple[object, ...]:
        """As itself between processes."""
        return ConfigError, (self.source, self.problems)


def parse_size(text: object) -> int:
    """`"100 GiB"` in bytes. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError('not a size; write it like "512 MiB" or "100 GB"')
    return int(Decimal(match[1]) * _SIZE_UNITS[match[2]])


def format_size(size: int) -> str:
    """The shortest exact way to write `size` bytes."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]} {unit}"
    return f"{size} B"


def parse_duration(text: object) -> float:
    """`"1m30s"` in seconds. Raises ValueError."""
    if not isinstance(text, str) or _DURATION.fullmatch(text.strip()) is None:
        raise ValueError('not a duration; write it like "500ms", "30s", "1m30s" or "30d"')
    parts = _DURATION_PART.findall(text)
    return float(sum(Decimal(number) * _DURATION_UNITS[unit] for number, unit in parts) / 1000)


def format_duration(seconds: float) -> str:
    """The shortest exact way to write a duration."""
    milliseconds = round(seconds * 1000)
    for unit, length in _DURATION_UNITS.items():
        if milliseconds and milliseconds % length == 0:
            return f"{milliseconds // length}{unit}"
    return "0s"


def _parse_listen(text: object) -> tuple[str, int]:
    match = _LISTEN.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match["port"]) > _LAST_PORT:
        raise ValueError('not an address; write it like "0.0.0.0:5000" or "[::]:5000"')
    return match["ip6"] or match["host"], int(match["port"])


def _format_listen(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse_network(text: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(str(text))
    except ValueError as error:
        raise ValueError(f'not a network ({error}); write it like "10.0.0.0/8"') from error


def _readable_file(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        where = "" if path.is_absolute() else f" (relative to {Path.cwd()})"
        raise ValueError(f"cannot be read: {error.strerror}{where}") from error


def _not_zero(amount: float) -> float:
    if not amount:
        raise ValueError("must be more than zero")
    return amount


def _worth_a_request(size: int) -> int:
    if size < _SMALLEST_SEGMENT:
        raise ValueError(f"must be at least {format_size(_SMALLEST_SEGMENT)}")
    return size


def _host(text: str) -> str:
    host = text.strip().lower()
    if not host or any(mark in host for mark in "/?#@ "):
        raise ValueError('not a registry host; write it like "ghcr.io" or "registry.local:5000"')
    return host


def _parse_workers(value: object) -> int | str:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError('not a number of processes; write "auto", or 1 or more')


Count = Annotated[int, Strict(), Field(ge=1)]
Flag = Annotated[bool, Strict()]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size)]
Duration = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
Timeout = Annotated[Duration, AfterValidator(_not_zero)]
Listen = Annotated[tuple[str, int], BeforeValidator(_parse_listen), PlainSerializer(_format_listen)]
ReadableFile = Annotated[Path, AfterValidator(_readable_file), PlainSerializer(str)]
Host = Annotated[str, AfterValidator(_host)]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(_parse_network),
    PlainSerializer(str),
]


class Section(BaseModel):
    """A table of the configuration file: closed, and frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))


class Server(Section):
    """Where daemons and operators connect, and who may."""

    listen: Listen = ("0.0.0.0", 5000)  # noqa: S104 - a mirror is there for other hosts
    admin_listen: Listen = ("127.0.0.1", 5001)
    workers: Annotated[int | Literal["auto"], BeforeValidator(_parse_workers)] = "auto"
    send_timeout: Timeout = 120.0
    drain_timeout: Duration = 30.0
    tls_certificate_file: ReadableFile | None = None
    tls_private_key_file: ReadableFile | None = None
    client_ca_file: ReadableFile | None = None
    htpasswd_file: ReadableFile | None = None
    allowed_networks: tuple[Network, ...] = ()

    @property
    def worker_count(self) -> int:
        """How many processes face clients: by itself, one for each core, within reason."""
        if self.workers == "auto":
            return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
        return self.workers

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_private_key_file is None):
            raise ValueError("tls_certificate_file and tls_private_key_file go together")
        if self.client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError("client_ca_file needs tls_certificate_file: no TLS, no certificates")
        return self

    @model_validator(mode="after")
    def _addresses_differ(self) -> Self:
        (host, port), (admin_host, admin_port) = self.listen, self.admin_listen
        if port == admin_port != 0 and (host == admin_host or {host, admin_host} & _EVERYWHERE):
            raise ValueError("listen and admin_listen are the same port; give each its own")
        return self


class Store(Section):
    """What the mirror may keep, and where."""

    root: Annotated[Path, PlainSerializer(str)] = Path("mirror-data")
    max_size: Size = 100 * 2**30
    min_free: Size = 2 * 2**30
    memory_cache: Size = 128 * 2**20


class Tags(Section):
    """How long a tag's meaning is believed."""

    fresh_for: Duration = 60.0
    stale_for: Duration = 30 * 86400.0
    missing_for: Duration = 10.0


class Fill(Section):
    """How content is fetched from upstream."""

    connections: Annotated[Count, Field(le=64)] = 4
    segment_size: Annotated[Size, AfterValidator(_worth_a_request)] = 8 * 2**20
    max_active: Count = 32
    connect_timeout: Timeout = 5.0
    stall_timeout: Timeout = 20.0
    attempts: Count = 8
    keep_partial_for: Duration = 86400.0
    prefetch: Literal["off", "platform"] = "off"


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Endpoint(Section):
    """One URL at which an upstream's content can be had."""

    url: str
    username: str | None = None
    password_file: ReadableFile | None = None
    ca_file: ReadableFile | None = None
    tags: Flag = True
    max_connections: Count | None = None
    max_bandwidth: Annotated[Size, AfterValidator(_not_zero)] | None = None
    token_hosts: tuple[Host, ...] = ()
    allow_http_redirect: Flag = False

    @field_validator("url")
    @classmethod
    def _url_is_a_registry(cls, url: str) -> str:
        # The messages quote nothing: a URL is where passwords get pasted.
        not_a_url = ValueError(
            'not a registry\'s URL; write it like "https://registry-1.docker.io"'
        )
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:
            raise not_a_url from None
        if not usable or re.search(r"\s", url):
            raise not_a_url
        if "@" in parts.netloc:
            raise ValueError("holds credentials; they go into username and password_file")
        if parts.query or parts.fragment:
            raise ValueError("a registry's URL has neither query nor fragment")
        path = parts.path.rstrip("/")
        if path.endswith("/v2"):
            raise ValueError('leave "/v2" out: the mirror adds it')
        return f"{parts.scheme}://{parts.netloc.lower()}{path}"

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together")
        return self

    @cached_property
    def host(self) -> str:
        """Host and, where it is not the scheme's own, port."""
        parts = urlsplit(self.url)
        own_port = {"http": ":80", "https": ":443"}[parts.scheme]
        return parts.netloc.removesuffix(own_port)

    @cached_property
    def name(self) -> str:
        """What metrics call it: the host, and the path where there is one."""
        return self.host + urlsplit(self.url).path


class Upstream(Section):
    """A registry namespace, and how its content is had."""

    default: Flag = False
    aliases: tuple[Host, ...] = ()
    hosts: tuple[Host, ...] = ()
    access: Literal["mirror", "client"] = "mirror"
    endpoints: tuple[Endpoint, ...]

    @model_validator(mode="after")
    def _endpoints_suffice(self) -> Self:
        if not self.endpoints:
            raise ValueError("endpoints is empty: name at least one URL")
        if not any(endpoint.tags for endpoint in self.endpoints):
            raise ValueError("at least one endpoint must answer for tags (tags = true)")
        urls = [endpoint.url for endpoint in self.endpoints]
        if len(set(urls)) != len(urls):
            raise ValueError("the same endpoint URL stands there twice")
        return self


def _docker_hub() -> dict[str, Upstream]:
    return {
        "docker.io": Upstream(
            default=True,
            aliases=("index.docker.io", "registry-1.docker.io"),
            endpoints=(Endpoint(url="https://registry-1.docker.io"),),
        )
    }


class Config(Section):
    """The whole configuration."""

    server: Server = Server()
    store: Store = Store()
    tags: Tags = Tags()
    fill: Fill = Fill()
    log: Log = Log()
    upstream: dict[Host, Upstream] = Field(default_factory=_docker_hub)

    @property
    def memory_share(self) -> int:
        """What of `store.memory_cache` each process may use, in bytes: each worker, and our own."""
        return self.store.memory_cache // (self.server.worker_count + 1)

    @field_validator("upstream", mode="before")
    @classmethod
    def _names_differ_by_more_than_case(cls, upstreams: object) -> object:
        if isinstance(upstreams, dict):
            names = [str(name).strip().lower() for name in upstreams]
            for name in sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{name} is configured twice, in different spelling")
        return upstreams

    @model_validator(mode="after")
    def _names_are_unambiguous(self) -> Self:
        named = self.upstream.items()
        problems = _claimed_twice(
            [(name, name) for name in self.upstream]
            + [(alias, name) for name, upstream in named for alias in upstream.aliases]
        )
        problems += _claimed_twice(
            [(host, name) for name, upstream in named for host in upstream.hosts]
        )
        is_personal = any(upstream.access == "client" for _, upstream in named)
        if self.server.htpasswd_file and is_personal:
            problems.append(
                'server.htpasswd_file and access = "client" both need the Authorization header'
            )
        defaults = [name for name, upstream in named if upstream.default]
        if len(defaults) > 1:
            problems.append(f"only one upstream can be the default, not {' and '.join(defaults)}")
        if not self.upstream:
            problems.append("upstream is empty: configure at least one registry")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def redacted(self) -> dict[str, Any]:
        """The effective configuration, in the file's own notation, fit for a screen.

        It can be written to a file and loaded again. Secrets are shown by their files' names.
        """
        return self.model_dump(mode="python", exclude_none=True)


def _claimed_twice(claims: Iterable[tuple[str, str]]) -> list[str]:
    """What is wrong with pairs of a name and the upstream that it shall stand for."""
    owner: dict[str, str] = {}
    return [
        f"{name} stands for both {owner[name]} and {upstream}"
        for name, upstream in claims
        if owner.setdefault(name, upstream) != upstream
    ]


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration file at `path`, else at `$MIRROR_CONFIG`, else use the defaults.

    Relative paths in a file are relative to the working directory, as on a command line.

    Raises:
        ConfigError: With everything that is wrong.
    """
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    if path is None:
        return Config()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"not TOML: {error}"]) from error
    return parse(document, source=str(path))


def parse(document: dict[str, Any], *, source: str = "configuration") -> Config:
    """Validate a parsed document. Raises ConfigError with everything that is wrong."""
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        problems = [
            _explain(
                [part for part in detail["loc"] if part != "[key]"], detail["type"], detail["msg"]
            )
            for detail in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigError(source, problems) from None  # a traceback would quote the input


_WORDS = {
    "missing": "is required",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
}
"""Pydantic's kinds of error that it words for programmers."""


def _explain(location: list[int | str], kind: str, message: str) -> str:
    path = _path(location)
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        return f"{path}: unknown key" + (f"; did you mean {nearest[0]}?" if nearest else "")
    message = _WORDS.get(kind, message)
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{path}: {message}" if path else message


def _path(location: list[int | str]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]+", part):
            text += f".{part}"
        else:
            text += f'."{part}"'
    return text.removeprefix(".")


def _known_keys(location: list[int | str]) -> list[str]:
    """The keys that the table at `location` may hold."""
    match location:
        case []:
            section: Any = Config
        case ["upstream", _]:
            section = Upstream
        case ["upstream", _, "endpoints", _]:
            section = Endpoint
        case _:
            section = Config.model_fields[str(location[0])].annotation
    return list(section.model_fields)
