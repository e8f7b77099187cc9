"""Registries, and where their content is had: what can be set, and what can be wrong with it."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from mirror.config.bandwidth import Bandwidth, format_bandwidth, parse_bandwidth
from mirror.config.proxies import Proxy, parse_proxy_setting
from mirror.config.units import parse_prefix
from mirror.config.values import (
    Count,
    Flag,
    Host,
    ReadableFile,
    Section,
    Timeout,
)
from mirror.oci.image import DOCKER_HUB
from mirror.oci.repositories import Selection


def _tells_tags(value: object) -> object:
    if isinstance(value, bool) or value == "fallback":
        return value
    raise ValueError('must be true, false or "fallback"')


TellsTags = Annotated[bool | Literal["fallback"], BeforeValidator(_tells_tags)]
MaxBandwidth = Annotated[
    Bandwidth, BeforeValidator(parse_bandwidth), PlainSerializer(format_bandwidth)
]
Prefix = Annotated[str, AfterValidator(parse_prefix)]
ProxySetting = Annotated[
    Proxy | Literal["direct"], BeforeValidator(parse_proxy_setting), PlainSerializer(str)
]
Glob = Annotated[str, Field(pattern=r"^[a-z0-9._/*?-]+$")]


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
    max_bandwidth: MaxBandwidth | None = None
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
    push: Literal["off", "client", "mirror"] = "off"
    allow_push: tuple[Glob, ...] = ()
    relay_tokens: Literal[False, True, "https", "http"] = False
    allow: tuple[Glob, ...] = ()
    deny: tuple[Glob, ...] = ()
    max_idle: Timeout | None = None
    sealed: Flag = False
    endpoints: tuple[Endpoint, ...] = ()

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
    def served(self) -> Selection:
        """The repositories that `allow` and `deny` leave."""
        return Selection(self.allow, self.deny)

    @property
    def pushed_to(self) -> Selection | None:
        """The repositories that may be pushed to by way of the mirror; None: none of them."""
        return None if self.push == "off" else Selection(self.allow_push)

    @property
    def has_logins(self) -> bool:
        """Whether clients show their own credentials here, to pull or to push."""
        return "client" in {self.access, self.push}

    @property
    def relay_scheme(self) -> Literal["https", "http"] | None:
        """How clients send the mirror what a token server is asked; None: not at all."""
        if self.relay_tokens is True:
            return "https"
        return self.relay_tokens or None

    @model_validator(mode="after")
    def _only_clients_tokens_are_relayed(self) -> Self:
        if self.relay_tokens and not self.has_logins:
            raise ValueError(
                'relay_tokens is for access = "client" or push = "client": else clients need no'
                " tokens"
            )
        return self

    @property
    def asked(self) -> tuple[Endpoint, ...]:
        """The endpoints that anything is asked of: none of a sealed one."""
        return () if self.sealed else self.endpoints

    @model_validator(mode="after")
    def _somebody_lets_clients_in(self) -> Self:
        if self.sealed and self.access == "client":
            raise ValueError(
                'sealed = true is never asked, and access = "client" has each client let in by'
                ' upstream: nobody would be; take access = "mirror" where all may have what is here'
            )
        return self

    @model_validator(mode="after")
    def _somebody_takes_pushes(self) -> Self:
        if self.sealed and self.push != "off":
            raise ValueError(f'sealed = true is never asked: push = "{self.push}" would go nowhere')
        if self.access == "client" and self.push == "mirror":
            raise ValueError(
                'access = "client" has each client read what its own credentials may, and'
                ' push = "mirror" would have it mount with the mirror\'s what those may not: take'
                ' push = "client"'
            )
        if self.allow_push and self.push == "off":
            raise ValueError('allow_push needs push = "client" or "mirror"')
        return self

    @model_validator(mode="after")
    def _endpoints_suffice(self) -> Self:
        if not self.endpoints and not self.sealed:
            raise ValueError("endpoints is empty: name at least one URL")
        if self.endpoints and not any(endpoint.is_authority for endpoint in self.endpoints):
            raise ValueError("at least one endpoint must answer for tags (tags = true)")
        addresses = [(endpoint.url, endpoint.prefix) for endpoint in self.endpoints]
        if len(set(addresses)) != len(addresses):
            raise ValueError("the same endpoint URL stands there twice")
        return self


def aliases_of(upstreams: Mapping[str, Upstream]) -> dict[str, str]:
    """The other names of upstreams, with the names of those."""
    return {alias: name for name, its in upstreams.items() for alias in its.aliases}


def docker_hub() -> dict[str, Upstream]:
    """What is mirrored where nothing is configured."""
    return {
        DOCKER_HUB: Upstream(
            default=True,
            aliases=("index.docker.io", "registry-1.docker.io"),
            endpoints=(Endpoint(url="https://registry-1.docker.io"),),
        )
    }


def with_docker_hubs_defaults(upstreams: Mapping[object, object]) -> dict[object, object]:
    """The tables of a file, with what is not written in Docker Hub's, where there is one."""
    tables = {name: it for name, it in upstreams.items() if isinstance(it, dict)}
    defaults = docker_hub()[DOCKER_HUB].model_dump(mode="python", exclude_none=True)
    claimed = {str(name).strip().lower() for name in tables} | {
        str(alias).lower()
        for table in tables.values()
        if isinstance(table.get("aliases"), list | tuple)
        for alias in table["aliases"]
    }
    defaults["aliases"] = tuple(it for it in defaults["aliases"] if it not in claimed)
    defaults["default"] = not any(table.get("default") is True for table in tables.values())
    return {**upstreams} | {
        name: defaults | table
        for name, table in tables.items()
        if str(name).strip().lower() == DOCKER_HUB
    }
