"""Who is connected: so many connections in all, and no client has more than its share. Pure.

HTTP/1.1 answers one request after another on a connection, so this bounds requests in flight too.
A client is an address (`mirror.aio.addresses`).
"""

import itertools
from collections import Counter

_RESERVED = 64  # descriptors of a worker for other things than clients
_EACH = 2  # descriptors: a connection, and the blob that is sent over it


def room_for(descriptors: int) -> int:
    """How many clients a worker may have that may have so many files and connections open."""
    return max(1, (descriptors - _RESERVED) // _EACH)


class Connections:
    """Counts connections by client. `most` for all, `per_client` for each.

    However much a client is granted, it never has more than half of what there is.
    """

    def __init__(self, most: int, per_client: int) -> None:
        self.most = most
        self.per_client = max(1, min(per_client, most // 2))
        self._open: Counter[str] = Counter()
        self._warned: set[str] = set()
        self.count = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no room for anybody."""
        return self.count >= self.most

    def admit(self, client: str) -> bool:
        """Count one more connection of `client`, unless it has its share."""
        if self._open[client] >= self.per_client:
            return False
        self._open[client] += 1
        self.count += 1
        return True

    def is_news(self, client: str) -> bool:
        """Whether nobody has been told of its having too many, since it had none."""
        is_news = client not in self._warned
        self._warned.add(client)
        return is_news

    def release(self, client: str) -> None:
        """A connection of `client` has ended."""
        self.count -= 1
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]
            self._warned.discard(client)


class Given:
    """The port `Clients`, for one worker: the connections that it has."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._numbers = itertools.count(1)
        self._clients: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: str) -> int:
        """Note a connection that has been admitted; its number."""
        number = next(self._numbers)
        self._clients[number] = client
        return number

    def find_client(self, number: int) -> str:
        """Who is at a connection. All whom a worker cannot name are one: none is on no account."""
        return self._clients.get(number, "")

    def note_closed(self, number: int) -> None:
        """The connection that was given under this number has ended."""
        client = self._clients.pop(number, None)
        if client is not None:
            self._connections.release(client)

    def close(self) -> None:
        """All of them have."""
        for number in [*self._clients]:
            self.note_closed(number)
