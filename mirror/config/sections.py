"""Every setting with its default, and what can be wrong with it; frozen once read.

No secret is ever part of it: secrets are in files, whose names are.
"""

import ipaddress
import os
import re
from collections.abc import Iterable
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
    field_validator,
    model_validator,
)

from mirror.config.proxies import Proxy, parse_proxy_setting
from mirror.config.units import (
    format_duration,
    format_listen,
    format_size,
    parse_duration,
    parse_host,
    parse_listen,
    parse_listens,
    parse_network,
    parse_prefix,
    parse_size,
)

DOCKER_HUB = "docker.io"
"""Docker Hub's name in image names."""

_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - names for all of a host's addresses
_SMALLEST_SEGMENT = 64 * 2**10
_WORKERS_ALLOWED = 256  # no machine of today gains by more
_MOST_WORKERS = 4  # by itself: they saturate 40 Gbit/s, and each has memory of its own


def _without_tilde(path: Path) -> Path:
    if path.parts[:1] and path.parts[0].startswith("~"):
        raise ValueError('only shells know what "~" is; write the whole path')
    return path


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


def _parse_workers(value: object) -> int | str:
    if value == "auto" or (type(value) is int and 1 <= value <= _WORKERS_ALLOWED):
        return value
    raise ValueError(f'not a number of processes; write "auto", or 1 to {_WORKERS_ALLOWED}')


def _as_written(addresses: tuple[tuple[str, int], ...]) -> str | list[str]:
    written = [format_listen(address) for address in addresses]
    return written[0] if len(written) == 1 else written


def _tells_tags(value: object) -> object:
    if isinstance(value, bool) or value == "fallback":
        return value
    raise ValueError('must be true, false or "fallback"')


Count = Annotated[int, Strict(), Field(ge=1)]
Flag = Annotated[bool, Strict()]
TellsTags = Annotated[bool | Literal["fallback"], BeforeValidator(_tells_tags)]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size)]
Duration = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
Timeout = Annotated[Duration, AfterValidator(_not_zero)]
Listen = Annotated[tuple[str, int], BeforeValidator(parse_listen), PlainSerializer(format_listen)]
Listens = Annotated[
    tuple[tuple[str, int], ...], BeforeValidator(parse_listens), PlainSerializer(_as_written)
]
"""One address or a list of them, written so in the file."""

Directory = Annotated[Path, AfterValidator(_without_tilde), PlainSerializer(str)]
ReadableFile = Annotated[
    Path, AfterValidator(_without_tilde), AfterValidator(_readable_file), PlainSerializer(str)
]
Host = Annotated[str, AfterValidator(parse_host)]
Prefix = Annotated[str, AfterValidator(parse_prefix)]
ProxySetting = Annotated[
    Proxy | Literal["direct"], BeforeValidator(parse_proxy_setting), PlainSerializer(str)
]
Glob = Annotated[str, Field(pattern=r"^[a-z0-9._/*?-]+$")]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(parse_network),
    PlainSerializer(str),
]


class Section(BaseModel):
    """A table of the configuration file: closed, and frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))


class Server(Section):
    """Where daemons and operators connect, and who may."""

    listen: Listens = (("0.0.0.0", 5000),)  # noqa: S104 - a mirror is there for other hosts
    admin_listen: Listen = ("127.0.0.1", 5001)
    admin_hosts: tuple[Host, ...] = ()
    workers: Annotated[int | Literal["auto"], BeforeValidator(_parse_workers)] = "auto"
    request_timeout: Timeout = 30.0
    keep_alive_timeout: Timeout = 120.0
    send_timeout: Timeout = 120.0
    drain_timeout: Duration = 30.0
    max_connections_per_client: Count = 1000
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
        if len(set(self.listen)) < len(self.listen):
            raise ValueError("listen names an address twice")
        admin_host, admin_port = self.admin_listen
        for host, port in self.listen:
            is_same_host = host == admin_host or {host, admin_host} & _EVERYWHERE
            if port == admin_port != 0 and is_same_host:
                raise ValueError("listen and admin_listen are the same port; give each its own")
        return self


class Store(Section):
    """What the mirror may keep, and where."""

    root: Directory = Path("mirror-data")
    max_size: Annotated[Size, AfterValidator(_not_zero)] = 100 * 2**30
    min_free: Size = 2 * 2**30
    memory_cache: Size = 128 * 2**20


class Tags(Section):
    """How long a tag's meaning is believed."""

    fresh_for: Duration = 60.0
    stale_for: Duration = 30 * 86400.0
    missing_for: Duration = 10.0
    access_for: Duration = 60.0


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


class Admin(Section):
    """Who may use the operators' port, beside those on this host."""

    token_file: ReadableFile | None = None


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Endpoint(Section):
    """One URL at which an upstream's content can be had."""

    url: str
    prefix: Prefix | None = None
    username: str | None = None
    password_file: ReadableFile | None = None
    credential_helper: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    ca_file: ReadableFile | None = None
    tags: TellsTags = True
    max_connections: Count | None = None
    max_bandwidth: Annotated[Size, AfterValidator(_not_zero)] | None = None
    token_hosts: tuple[Host, ...] = ()
    allow_http_redirect: Flag = False
    private_redirects: Flag = False
    proxy: ProxySetting | None = None
    proxy_username: str | None = None
    proxy_password_file: ReadableFile | None = None

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
        if self.username is not None and self.credential_helper is not None:
            raise ValueError("credential_helper stands instead of username and password_file")
        return self

    @property
    def is_authority(self) -> bool:
        """Whether it may say what a tag means, and who is let in."""
        return self.tags is True

    @model_validator(mode="after")
    def _proxy_is_whole(self) -> Self:
        if (self.proxy_username is None) != (self.proxy_password_file is None):
            raise ValueError("proxy_username and proxy_password_file go together")
        if self.proxy_username is not None and not isinstance(self.proxy, Proxy):
            raise ValueError("proxy_username needs proxy: say which proxy it is for")
        return self

    @cached_property
    def host(self) -> str:
        """Host and, where it is not the scheme's own, port."""
        parts = urlsplit(self.url)
        own_port = {"http": ":80", "https": ":443"}[parts.scheme]
        return parts.netloc.removesuffix(own_port)

    @cached_property
    def name(self) -> str:
        """What metrics call it: the host, and where there are any, path and prefix."""
        path = urlsplit(self.url).path
        return self.host + path + (f"/{self.prefix}" if self.prefix else "")

    def name_there(self, repository: str) -> str:
        """What it calls a repository of the upstream."""
        return f"{self.prefix}/{repository}" if self.prefix else repository


class Upstream(Section):
    """A registry namespace, and how its content is had."""

    default: Flag = False
    aliases: tuple[Host, ...] = ()
    hosts: tuple[Host, ...] = ()
    access: Literal["mirror", "client"] = "mirror"
    relay_tokens: Literal[False, True, "https", "http"] = False
    allow: tuple[Glob, ...] = ()
    deny: tuple[Glob, ...] = ()
    max_idle: Timeout | None = None
    endpoints: tuple[Endpoint, ...]

    @model_validator(mode="before")
    @classmethod
    def _name_is_quoted(cls, table: object) -> object:
        # TOML takes the dots of a bare [upstream.docker.io] for tables in tables.
        if isinstance(table, dict):
            for key, value in table.items():
                if isinstance(value, dict) and key not in cls.model_fields:
                    raise ValueError(
                        f'holds a table "{key}"; a name with dots is written in quotes,'
                        ' like [upstream."docker.io"]'
                    )
        return table

    @property
    def relay_scheme(self) -> Literal["https", "http"] | None:
        """How clients send the mirror what a token server is asked; None: not at all."""
        if self.relay_tokens is True:
            return "https"
        return self.relay_tokens or None

    @model_validator(mode="after")
    def _only_clients_tokens_are_relayed(self) -> Self:
        if self.relay_tokens and self.access != "client":
            raise ValueError('relay_tokens is for access = "client": else clients need no tokens')
        return self

    @model_validator(mode="after")
    def _endpoints_suffice(self) -> Self:
        if not self.endpoints:
            raise ValueError("endpoints is empty: name at least one URL")
        if not any(endpoint.is_authority for endpoint in self.endpoints):
            raise ValueError("at least one endpoint must answer for tags (tags = true)")
        addresses = [(endpoint.url, endpoint.prefix) for endpoint in self.endpoints]
        if len(set(addresses)) != len(addresses):
            raise ValueError("the same endpoint URL stands there twice")
        return self


def _docker_hub() -> dict[str, Upstream]:
    return {
        DOCKER_HUB: Upstream(
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
    admin: Admin = Admin()
    log: Log = Log()
    upstream: dict[Host, Upstream] = Field(default_factory=_docker_hub)

    @property
    def memory_share(self) -> int:
        """What of `store.memory_cache` each process may use, in bytes: each worker, and our own."""
        return self.store.memory_cache // (self.server.worker_count + 1)

    @field_validator("upstream", mode="before")
    @classmethod
    def _docker_hub_has_its_defaults(cls, upstreams: object) -> object:
        """What `config/mirror.toml` calls its defaults are that also where its table is written."""
        if not isinstance(upstreams, dict):
            return upstreams
        tables = {name: it for name, it in upstreams.items() if isinstance(it, dict)}
        defaults = _docker_hub()[DOCKER_HUB].model_dump(mode="python", exclude_none=True)
        claimed = {str(name).strip().lower() for name in tables} | {
            str(alias).lower()
            for table in tables.values()
            if isinstance(table.get("aliases"), list | tuple)
            for alias in table["aliases"]
        }
        defaults["aliases"] = tuple(it for it in defaults["aliases"] if it not in claimed)
        defaults["default"] = not any(table.get("default") is True for table in tables.values())
        return upstreams | {
            name: defaults | table
            for name, table in tables.items()
            if str(name).strip().lower() == DOCKER_HUB
        }

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

    @model_validator(mode="after")
    def _tokens_are_relayed_in_secret(self) -> Self:
        relaying = [name for name, its in self.upstream.items() if its.relay_tokens is True]
        if relaying and self.server.tls_certificate_file is None:
            raise ValueError(
                f"relay_tokens of {relaying[0]} would have passwords sent in the clear: set"
                " server.tls_certificate_file; or write"
                ' relay_tokens = "https" where a proxy in front of the mirror ends TLS,'
                ' "http" where you trust the network'
            )
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
