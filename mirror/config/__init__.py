"""The configuration: read once, then frozen.

The file's grammar is TOML; sizes are strings such as `"100 GiB"`, durations `"1m"`, secrets only
`*_file`. `config/mirror.toml` documents each setting and equals the defaults (tested). What can be
wrong is found here, at the door, and all of it at once.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mirror.config.notify import Notify
from mirror.config.pins import (
    Pin,
    make_pin,
    parse_platforms,
    require_platforms,
    why_not_fetchable,
)
from mirror.config.proxies import EnvironmentProxies, parse_environment
from mirror.config.sections import (
    Config,
    Fill,
    Log,
    Push,
    Server,
    Store,
    Tags,
)
from mirror.config.shared import Shared
from mirror.config.upstreams import Endpoint, Upstream, aliases_of
from mirror.config.values import UNOPENED
from mirror.config.warm import Warm
from mirror.config.wording import explain
from mirror.oci.image import DOCKER_HUB

__all__ = [
    "CONFIG_VARIABLE",
    "DOCKER_HUB",
    "Config",
    "ConfigError",
    "Endpoint",
    "EnvironmentProxies",
    "Fill",
    "Log",
    "Notify",
    "Pin",
    "Push",
    "Server",
    "Shared",
    "Store",
    "Tags",
    "Upstream",
    "Warm",
    "aliases_of",
    "inherited_sockets",
    "is_journal",
    "load",
    "make_pin",
    "notify_socket",
    "parse",
    "parse_platforms",
    "read_proxies",
    "require_platforms",
    "why_not_fetchable",
]

CONFIG_VARIABLE = "MIRROR_CONFIG"

_FIRST_INHERITED = 3  # SD_LISTEN_FDS_START


class ConfigError(Exception):
    """The configuration cannot be used; `problems` has a line for everything wrong in it."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.source = source
        self.problems = problems

    def __reduce__(self) -> tuple[object, ...]:
        """As itself between processes."""
        return ConfigError, (self.source, self.problems)


def load(
    path: Path | None, environ: Mapping[str, str] = os.environ, *, opens_files: bool = True
) -> Config:
    """Read the configuration file at `path`, else at `$MIRROR_CONFIG`, else use the defaults.

    `opens_files`: whether files that it names are seen to be readable, for who will read them.
    Relative paths in a file are relative to the working directory, as on a command line.

    Raises:
        ConfigError: With everything that is wrong.
    """
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    if path is None:
        return Config()
    try:
        # Some editors begin a file with a byte order mark.
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"not TOML: {error}"]) from error
    return parse(document, source=str(path), opens_files=opens_files)


def inherited_sockets(environ: Mapping[str, str] = os.environ) -> tuple[int, ...]:
    """The descriptors that a service manager has passed to this process (sd_listen_fds(3))."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return ()
    return tuple(range(_FIRST_INHERITED, _FIRST_INHERITED + int(count)))


def notify_socket(environ: Mapping[str, str] = os.environ) -> tuple[str, float]:
    """Where a service manager wants to be told (sd_notify(3)), and how often.

    The address is empty where nobody does; the watchdog's seconds are 0 where there is none.
    """
    micros = environ.get("WATCHDOG_USEC", "")
    is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    watchdog = int(micros) / 1_000_000 if is_ours and micros.isdecimal() else 0.0
    return environ.get("NOTIFY_SOCKET", ""), watchdog


def is_journal(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written there goes to systemd's journal: systemd.exec(5), JOURNAL_STREAM."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def parse(
    document: dict[str, Any], *, source: str = "configuration", opens_files: bool = True
) -> Config:
    """Validate a parsed document. Raises ConfigError with everything that is wrong."""
    try:
        return Config.model_validate(document, context=None if opens_files else UNOPENED)
    except ValidationError as error:
        raise ConfigError(source, explain(error)) from None  # a traceback would quote the input


def read_proxies(environ: Mapping[str, str] = os.environ) -> EnvironmentProxies:
    """What HTTPS_PROXY, HTTP_PROXY and NO_PROXY say; an endpoint's `proxy` goes before.

    Raises:
        ConfigError: With everything that is wrong.
    """
    found, problems = parse_environment(environ)
    if problems:
        raise ConfigError("environment", problems)
    return found
