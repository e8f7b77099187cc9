"""What of the configuration a worker is told: what it serves by, and nothing of upstreams' own.

The configuration was parsed at the door of the mirror's process. What a worker goes by is made of
it there, and travels in types of its own: the library that checks what people write would take a
fifth of a worker's memory, to check it again.
"""

from msgspec import Struct, structs

from mirror.pull.routing import Named


class UnusableFile(Exception):
    """A file that the configuration names makes no sense; `problems` has a line for each reason."""

    def __init__(self, file: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{file}: {problem}" for problem in problems))
        self.file = file
        self.problems = problems

    def __reduce__(self) -> tuple[object, ...]:
        """As itself between processes."""
        return UnusableFile, (self.file, self.problems)


class Files(Struct, frozen=True):
    """The files that are read by workers themselves, as `[server]` names them."""

    tls_certificate_file: str | None = None
    tls_private_key_file: str | None = None
    client_ca_file: str | None = None
    htpasswd_file: str | None = None

    def named(self) -> dict[str, str]:
        """Those that are configured, by their setting."""
        return {name: file for name, file in structs.asdict(self).items() if file is not None}


class Settings(Struct, frozen=True):
    """What a worker serves by. Times in seconds, sizes in bytes."""

    files: Files = Files()
    allowed_networks: tuple[str, ...] = ()
    request_timeout: float = 30.0
    keep_alive_timeout: float = 120.0
    send_timeout: float = 120.0
    drain_timeout: float = 30.0
    memory_share: int = 0
    prefetches: bool = False
    log_level: str = "info"
    upstreams: dict[str, Named] = {}
    page: str = ""  # shown to browsers
