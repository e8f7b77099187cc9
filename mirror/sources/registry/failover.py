"""The endpoints of an upstream are asked in turn, until one has an answer."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from mirror.oci.errors import (
    Denied,
    DigestMismatch,
    ErrorCode,
    Missing,
    Refused,
    RegistryError,
    Sealed,
    Unavailable,
)
from mirror.sources.registry.endpoint import Endpoint
from mirror.sources.registry.reading import Senseless, reading
from mirror.telemetry.log import explain

_logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


async def first_answer(
    endpoints: Iterable[Endpoint],
    ask: Callable[[Endpoint], Awaitable[Answer]],
    *,
    unknown: ErrorCode = ErrorCode.MANIFEST_UNKNOWN,
) -> Answer:
    """The first endpoint's answer that is one; `unknown` is the code of what nobody has.

    Raises:
        Missing, Denied, Refused, Unavailable, DigestMismatch: What the endpoints say, weighed.
        Sealed: There are none.
    """
    errors: list[RegistryError] = []
    for endpoint in endpoints:
        try:
            with reading(endpoint.config.url):
                answer = await ask(endpoint)
        except Missing as error:
            error.code = unknown
            errors.append(error)
        except Denied as error:
            # Whoever may not say what a tag means may not say who is let in either.
            errors.append(
                error if endpoint.config.is_authority else Missing(unknown, error.message)
            )
        except Senseless as error:
            errors.append(Unavailable(error.message, status_seen=error.status_seen))
        except (Refused, Unavailable, DigestMismatch) as error:
            errors.append(error)
        else:
            explain(
                _logger, "an endpoint has the answer", endpoint=endpoint.config.url,
                asked_before=len(errors),
            )  # fmt: skip
            return answer
        explain(
            _logger, "an endpoint has no answer", endpoint=endpoint.config.url, why=str(errors[-1])
        )
    raise weigh(errors) if errors else Sealed(unknown)


def weigh(errors: list[RegistryError]) -> RegistryError:
    """Which of several endpoints' refusals to believe.

    A denial is an answer; an outage means that we do not know; only if all say so it is missing.
    """
    for kind in (Denied, Unavailable, Refused, Missing):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0]
