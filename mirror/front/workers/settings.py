"""What workers are told, made of the configuration."""

from mirror.config import Config, Server
from mirror.front.settings import Files, Settings
from mirror.pull.routing import Named


def files_of(server: Server) -> Files:
    """The files of `[server]` that workers read."""
    found = {name: getattr(server, name) for name in Files.__struct_fields__}
    return Files(**{name: str(file) for name, file in found.items() if file is not None})


def settings_for_workers(config: Config, page: str = "") -> Settings:
    """The part of the configuration that workers need, and what they show browsers."""
    server = config.server
    return Settings(
        files=files_of(server),
        allowed_networks=tuple(map(str, server.allowed_networks)),
        request_timeout=server.request_timeout,
        keep_alive_timeout=server.keep_alive_timeout,
        send_timeout=server.send_timeout,
        drain_timeout=server.drain_timeout,
        memory_share=config.memory_share,
        prefetches=config.fill.prefetch != "off",
        log_level=config.log.level,
        upstreams={
            name: Named(
                aliases=its.aliases,
                hosts=its.hosts,
                is_default=its.default,
                access=its.access,
                push=its.push,
                relay=its.relay_scheme,
                allow=its.allow,
                deny=its.deny,
                is_sealed=its.sealed,
            )
            for name, its in config.upstream.items()
        },
        page=page,
    )
