"""What asyncpg raises, in words of ours.

what the database says                                         here
nothing; that it ends, or is a standby; that it has no         DatabaseDown
connection, memory or disk left, or fails by itself
no column takes the value, no constraint allows it             NotKept: nor will it another time
all else: a deadlock, a right or a table that is not there     StoreError: it may, another time
"""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from mirror.oci.errors import StoreError

_LOST = (
    asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError, asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.ReadOnlySQLTransactionError, asyncpg.InvalidCatalogNameError,
)  # fmt: skip
"""After which a connection, and others like it, are of no use."""

_FULL = (
    asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError, asyncpg.InternalServerError,
)  # fmt: skip
"""It is there, and cannot do what it should, whatever it is asked."""

_NEVER = (
    asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError,
)  # fmt: skip


class DatabaseDown(StoreError):
    """It does not answer (`why`); what is asked of it can be had another time."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the shared database is down: {why}")
        self.why = why


class NotKept(StoreError):
    """It does not take this, whenever it is asked."""


@contextmanager
def translated() -> Iterator[None]:
    """Raises DatabaseDown, NotKept, StoreError in the place of what asyncpg raises."""
    try:
        yield
    except TimeoutError:
        raise DatabaseDown("it does not answer in time") from None
    except OSError as error:  # a certificate that is not trusted is a ValueError, too
        raise DatabaseDown(_in_words(error)) from None
    except (ValueError, *_NEVER) as error:  # asyncpg's own word for what no column takes is one
        raise NotKept(f"the shared database does not keep this: {_in_words(error)}") from None
    except asyncpg.TooManyConnectionsError:
        raise DatabaseDown("it has no connection left") from None
    except (*_LOST, *_FULL) as error:
        raise DatabaseDown(_in_words(error)) from None
    except asyncpg.PostgresError as error:
        raise StoreError(f"the shared database refuses this: {_in_words(error)}") from None


def _in_words(error: BaseException) -> str:
    """What happened, on one line; asyncpg names no passwords."""
    text = " ".join(str(error).split())
    return text or type(error).__name__
