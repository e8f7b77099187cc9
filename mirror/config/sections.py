"""Every setting with its default, and what can be wrong with it; frozen once read.

No secret is ever part of it: secrets are in files, whose names are.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from mirror.config.notify import Notify
from mirror.config.pins import Pin, require_fetchable
from mirror.config.shared import Shared
from mirror.config.units import format_size
from mirror.config.upstreams import Upstream, docker_hub, with_docker_hubs_defaults
from mirror.config.values import (
    Count,
    Directory,
    Duration,
    Flag,
    Host,
    Listen,
    Listens,
    Network,
    ReadableFile,
    Section,
    Size,
    Timeout,
    not_zero,
)
from mirror.config.warm import Warm, require_warmable

_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - names for all of a host's addresses
_DAY = 86400.0
_SMALLEST_SEGMENT = 64 * 2**10
_WORKERS_ALLOWED = 256  # no machine of today gains by more
_MOST_WORKERS = 4  # by itself: they saturate 40 Gbit/s, and each has memory of its own


def _never_or_days(interval: float) -> float:
    if 0 < interval < _DAY:
        raise ValueError('must be at least "1d", or "0s" for never')
    return interval


def _worth_a_request(size: int) -> int:
    if size < _SMALLEST_SEGMENT:
        raise ValueError(f"must be at least {format_size(_SMALLEST_SEGMENT)}")
    return size


def _parse_workers(value: object) -> int | str:
    if value == "auto" or (type(value) is int and 1 <= value <= _WORKERS_ALLOWED):
        return value
    raise ValueError(f'not a number of processes; write "auto", or 1 to {_WORKERS_ALLOWED}')


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
    max_size: Annotated[Size, AfterValidator(not_zero)] = 100 * 2**30
    min_free: Size = 2 * 2**30
    forget_after: Duration = 90 * 86400.0
    new_repositories_per_hour: Count = 1000
    memory_cache: Size = 128 * 2**20
    scrub_interval: Annotated[Duration, AfterValidator(_never_or_days)] = 30 * 86400.0
    scrub_rate: Annotated[Size, AfterValidator(not_zero)] = 16 * 2**20
    max_quarantine: Size = 256 * 2**20


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
    min_rate: Size = 2**10
    attempts: Count = 8
    keep_partial_for: Duration = 86400.0
    prefetch: Literal["off", "platform"] = "off"
    whole: Literal["always", "never"] = "always"


class Push(Section):
    """What may be pushed by way of the mirror, and how long what is unfinished of it is kept."""

    keep_for: Duration = _DAY
    max_blob_size: Annotated[Size, AfterValidator(not_zero)] = 16 * 2**30
    max_spool: Annotated[Size, AfterValidator(not_zero)] = 32 * 2**30
    max_uploads: Count = 64


class History(Section):
    """What is kept of pulls, for operators."""

    keep_pulls: Duration = 30 * _DAY
    keep_totals: Duration = 1830 * _DAY
    max_size: Annotated[Size, AfterValidator(not_zero)] = 64 * 2**20
    client_addresses: Flag = True


class Admin(Section):
    """Who may use the operators' port, beside those on this host."""

    token_file: ReadableFile | None = None
    htpasswd_file: ReadableFile | None = None


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(Section):
    """The whole configuration."""

    server: Server = Server()
    store: Store = Store()
    tags: Tags = Tags()
    fill: Fill = Fill()
    push: Push = Push()
    history: History = History()
    admin: Admin = Admin()
    log: Log = Log()
    shared: Shared | None = None
    upstream: dict[Host, Upstream] = Field(default_factory=docker_hub)
    pin: tuple[Pin, ...] = ()
    warm: tuple[Warm, ...] = ()
    notify: tuple[Notify, ...] = ()

    @property
    def memory_share(self) -> int:
        """What of `store.memory_cache` each process may use, in bytes: each worker, and our own."""
        return self.store.memory_cache // (self.server.worker_count + 1)

    @field_validator("upstream", mode="before")
    @classmethod
    def _docker_hub_has_its_defaults(cls, upstreams: object) -> object:
        """What `config/mirror.toml` calls its defaults are that also where its table is written."""
        return with_docker_hubs_defaults(upstreams) if isinstance(upstreams, dict) else upstreams

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
        problems += self._list_problems_of_logins()
        defaults = [name for name, upstream in named if upstream.default]
        if len(defaults) > 1:
            problems.append(f"only one upstream can be the default, not {' and '.join(defaults)}")
        if not self.upstream:
            problems.append("upstream is empty: configure at least one registry")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _list_problems_of_logins(self) -> list[str]:
        """Who shows what in the Authorization header, and who may push with whose credentials."""
        problems = [
            f'server.htpasswd_file and {setting} = "client" both need the Authorization header'
            for setting in ("access", "push")
            if self.server.htpasswd_file
            and any(getattr(upstream, setting) == "client" for upstream in self.upstream.values())
        ]
        if self.server.htpasswd_file is None and self.server.client_ca_file is None:
            problems += [
                f'push = "mirror" of {name} would let everybody push with the mirror\'s own'
                " credentials: set server.htpasswd_file or server.client_ca_file"
                for name, upstream in self.upstream.items()
                if upstream.push == "mirror"
            ]
        return problems

    @model_validator(mode="after")
    def _pins_can_be_fetched(self) -> Self:
        require_fetchable(self.pin, self.upstream)
        require_warmable(self.warm, self.upstream)
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
