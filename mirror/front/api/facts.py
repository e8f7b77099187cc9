"""What is known of a request while it is answered: for its answer, the log and the metrics."""

from dataclasses import dataclass

from aiohttp import web

from mirror.oci.digest import Digest
from mirror.oci.errors import Denied, ErrorCode
from mirror.oci.reference import Reference, Repository
from mirror.pull.answers import Outcome
from mirror.telemetry.asked import Told
from mirror.telemetry.traffic import Kind


@dataclass(slots=True)
class Facts:
    """What log and metrics tell of a request; filled in while it is answered."""

    host: str = ""  # what the client calls us
    upstream: str = ""
    namespace: str | None = None  # that the client named (`ns`)
    kind: Kind | None = None
    told: Told | None = None  # how it went
    repository: Repository | None = None
    reference: Reference | None = None
    digest: Digest | None = None  # that was meant, or is answered
    endpoint: str | None = None  # that sent them, where they were fetched for this
    sent: int = 0  # bytes of content
    received: int = 0  # the same, of what is pushed
    missing: ErrorCode = ErrorCode.NAME_UNKNOWN  # what it is called if it is not there
    error: str | None = None  # why it could not be answered, for the log
    response: web.StreamResponse | None = None  # once its first bytes are out
    is_personal: bool = False  # the client's own authorization decides (access = "client")
    relay: str | None = None  # where this client may ask for tokens (front.api.token_relay)
    is_login: bool = False  # a person may read the answer, and nobody turns elsewhere
    is_last: bool = False  # the connection ends with the response

    def note_sent(self, length: int) -> None:
        """So many bytes of content have gone to the client."""
        self.sent += length

    def note(self, outcome: Outcome) -> Outcome:
        """How the lookup went."""
        self.told = outcome.result, outcome.why, outcome.was
        self.endpoint = outcome.endpoint
        return outcome


def authorization_of(request: web.BaseRequest) -> str | None:
    """What the client sent. Raises Denied for what no registry could be sent."""
    header = request.headers.get("Authorization")
    if header is not None and not (header.isascii() and header.isprintable()):
        raise Denied(ErrorCode.DENIED, "the Authorization header is not ASCII (RFC 9110, 11.4)")
    return header
