"""What is compared: each peer as its users run it, on loopback, with directories of its own."""

import asyncio
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w
import yaml

from tests.bench.figures import CACHE, DOCKER, EXTERNAL, MIRROR, STATIC, Failed
from tests.support.images import OCI_MANIFEST
from tests.support.mirror import document, upstream_at
from tests.support.process import CHILD_ENVIRONMENT, INHERITED, Process, free_port
from tests.support.tls import Identity

Command = tuple[str | Path, ...]

EXTERNAL_COMMAND = INHERITED.get("BENCH_PEER_CMD", "")
"""Another peer; `{port}`, `{upstream}` and `{directory}` (empty, its own) are filled in."""

# An installed program has its bytecode; what this one is started with may forbid to write it.
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
_ENVIRONMENT = {name: it for name, it in CHILD_ENVIRONMENT.items() if name != _NO_BYTECODE} | {
    "PYTHONPYCACHEPREFIX": str(Path(__file__).parent / "results" / "bytecode")
}

_EXTERNAL_URL = INHERITED.get("BENCH_PEER_URL", "http://127.0.0.1:{port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a row wants of its servers beside the defaults."""

    upstream: str  # its URL
    files: Path  # the content, for who serves files
    fresh_for_seconds: int = 60
    identity: Identity | None = None  # speak TLS
    ca_file: Path | None = None
    mirror: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # overrides by section


@dataclass(frozen=True, slots=True)
class Server:
    """Something that answers on a port of 127.0.0.1."""

    name: str
    port: int
    directory: Path
    process: Process
    ca_file: Path | None = None
    url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def running(self) -> AbstractAsyncContextManager[Process]:
        return self.process


def server(name: str, directory: Path, setting: Setting, *, port: int | None = None) -> Server:
    """A server that keeps everything in `directory`; it runs inside `server.running()`."""
    port = port or free_port()
    directory.mkdir(parents=True, exist_ok=True)
    process = Process(
        _COMMANDS[name](directory, port, setting),
        log=directory / "server.log",
        ready=partial(_listens, port),
        environment=_ENVIRONMENT,
        start_within=30,
        stop_within=60,
    )
    url = f"{'https' if setting.identity else 'http'}://127.0.0.1:{port}"
    if name == EXTERNAL:
        url = _EXTERNAL_URL.replace("{port}", str(port))
    return Server(name, port, directory, process, setting.ca_file, url)


def _mirror(directory: Path, port: int, setting: Setting) -> Command:
    tls = (
        {
            "tls_certificate_file": str(setting.identity.certificate_file),
            "tls_private_key_file": str(setting.identity.private_key_file),
        }
        if setting.identity
        else {}
    )
    settings = document(
        {"docker.io": upstream_at(setting.upstream)},
        store_root=directory / "store",
        ports=(port, free_port()),
        tags={"fresh_for": f"{setting.fresh_for_seconds}s"},
        **{section: dict(values) for section, values in setting.mirror.items()},
    )
    settings["server"] |= tls
    file = directory / "mirror.toml"
    file.write_text(tomli_w.dumps(settings), encoding="utf-8")
    return (sys.executable, "-m", "mirror", "serve", "--config", file)


def _docker_registry(directory: Path, port: int, setting: Setting) -> Command:
    http: dict[str, Any] = {"addr": f"127.0.0.1:{port}"}
    if setting.identity:
        http["tls"] = {
            "certificate": str(setting.identity.certificate_file),
            "key": str(setting.identity.private_key_file),
        }
    settings = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": http,
        "proxy": {"remoteurl": setting.upstream},
    }
    file = directory / "registry.yml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return ("docker-registry", "serve", file)


_NGINX = """
daemon off;
user root;
worker_processes auto;
worker_rlimit_nofile 16384;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log {access_log};
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  default_type application/octet-stream;
  client_body_temp_path {directory}/body;
  {more}
  server {{
    listen 127.0.0.1:{port} backlog=1024 {tls};
    location = /v2/ {{ return 200; }}
    {location}
  }}
}}
"""

_FILES = """
    root {files};
    open_file_cache max=1000;
    location ~ /manifests/ {{ default_type {manifest}; }}
"""

# Without `updating`: a tag that is no longer fresh is asked for at once, as by the others.
_CACHING = """
  proxy_cache_path {directory}/cache levels=1:2 keys_zone=cache:10m max_size=100g inactive=1d
    use_temp_path=off;
  upstream registry {{ server {upstream}; keepalive 32; }}
"""
_CACHED = """
    location / {{
      proxy_pass http://registry;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache cache;
      proxy_cache_key $uri;
      proxy_cache_valid 200 {fresh}s;
      proxy_cache_lock on;
      proxy_cache_lock_timeout 10m;
      proxy_cache_lock_age 10m;
      proxy_cache_use_stale error timeout http_500 http_502 http_503 http_504 http_429;
      proxy_connect_timeout 5s;
      proxy_read_timeout 10s;
      location ~ (/blobs/|/manifests/sha256:) {{
        proxy_pass http://registry;
        proxy_cache_valid 200 1d;
      }}
    }}
"""


def _nginx_static(directory: Path, port: int, setting: Setting) -> Command:
    location = _FILES.format(files=setting.files, manifest=OCI_MANIFEST)
    return _nginx(directory, port, setting, location=location, access_log="off")


def _nginx_cache(directory: Path, port: int, setting: Setting) -> Command:
    upstream = setting.upstream.removeprefix("http://")
    more = _CACHING.format(directory=directory, upstream=upstream)
    location = _CACHED.format(fresh=setting.fresh_for_seconds)
    return _nginx(directory, port, setting, more=more, location=location)


def _nginx(
    directory: Path,
    port: int,
    setting: Setting,
    *,
    location: str,
    more: str = "",
    access_log: str = "",
) -> Command:
    tls = ""
    if setting.identity:
        tls = "ssl"
        more += f"ssl_certificate {setting.identity.certificate_file};"
        more += f"ssl_certificate_key {setting.identity.private_key_file};"
    text = _NGINX.format(
        directory=directory,
        port=port,
        tls=tls,
        more=more,
        location=location,
        access_log=access_log or directory / "access.log",
    )
    file = directory / "nginx.conf"
    file.write_text(text, encoding="utf-8")
    return ("nginx", "-e", "stderr", "-p", directory, "-c", file)


def _external(directory: Path, port: int, setting: Setting) -> Command:
    if setting.identity:
        raise Failed("not asked to speak TLS")
    if "{port}" not in EXTERNAL_COMMAND or "{port}" not in _EXTERNAL_URL:
        raise Failed("must listen on the {port} that it is given: several of it run at once")
    values = {"port": port, "upstream": setting.upstream, "directory": directory}
    command = EXTERNAL_COMMAND
    for name, value in values.items():
        command = command.replace(f"{{{name}}}", str(value))
    return tuple(shlex.split(command))


_COMMANDS: Mapping[str, Callable[[Path, int, Setting], Command]] = {
    MIRROR: _mirror,
    DOCKER: _docker_registry,
    CACHE: _nginx_cache,
    STATIC: _nginx_static,
    EXTERNAL: _external,
}


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return True
