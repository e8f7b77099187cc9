"""A cheap client in a process of its own, so that a server's time is a server's.

Run as a script with a plan (JSON, see `tests.bench.load`); prints what it saw as JSON. Bodies are
not copied out of the kernel, but for TLS. It needs nothing but the standard library.
"""

import json
import select
import socket
import ssl
import sys
import threading
import time
from typing import Any

_CHUNK = 4 * 2**20
_TRASH = memoryview(bytearray(_CHUNK))  # shared: nobody looks into it
_SLOW_BUFFER = 16 * 1024  # keeps the kernel from reading ahead of a slow client

Plan = dict[str, Any]


class _Connection:
    def __init__(self, plan: Plan) -> None:
        raw = socket.socket()
        if plan["rate"]:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER)
        raw.settimeout(plan["patience"])
        raw.connect(("127.0.0.1", plan["port"]))
        self._flags = 0 if plan["ca_file"] else socket.MSG_TRUNC  # TRUNC: drop, do not copy
        if plan["ca_file"]:
            context = ssl.create_default_context(cafile=plan["ca_file"])
            self._socket: socket.socket = context.wrap_socket(raw, server_hostname="localhost")
        else:
            self._socket = raw
        self._plan = plan

    def pull(self, target: str, began: float) -> dict[str, Any]:
        """Send a request, and drop its body as it comes."""
        self._socket.sendall(_request("GET", target, self._plan["headers"]))
        head = b""
        while b"\r\n\r\n" not in head:
            received = self._socket.recv(16 * 1024)
            if not received:
                raise ConnectionError("closed before there was a response")
            head += received
        head, _, body = head.partition(b"\r\n\r\n")
        status, length = _parse(head)
        first = time.perf_counter() if body else 0.0
        got = len(body)
        slow, until = self._plan["rate"], began + (self._plan["seconds"] or float("inf"))
        while got < length and time.perf_counter() < until:
            # With MSG_TRUNC, no more is dropped than was asked for: the next head stays whole.
            part = min(length - got, slow // 4 if slow else _CHUNK, _CHUNK)
            received_length = self._socket.recv_into(_TRASH, part, self._flags)
            if not received_length:
                raise ConnectionError(f"closed after {got} of {length} bytes")
            first = first or time.perf_counter()
            got += received_length
            if slow:
                time.sleep(received_length / slow)
        ended = time.perf_counter()
        return {
            "status": status,
            "length": length,
            "bytes": got,
            "first": (first or ended) - began,
            "seconds": ended - began,
        }


def pull_all(plan: Plan) -> list[dict[str, Any]]:
    """Let all clients begin at once; each asks for all targets, one after another."""
    gate = threading.Barrier(plan["clients"])
    results: list[dict[str, Any]] = []

    def one() -> None:
        gate.wait()
        began = time.perf_counter()
        try:
            connection = _Connection(plan)
            for target in plan["targets"]:
                results.append(connection.pull(target, began))  # noqa: PERF401 - each as it comes
        except (OSError, ValueError) as error:
            results.append({"error": f"{type(error).__name__}: {error}"})

    threading.stack_size(256 * 1024)
    threads = [threading.Thread(target=one) for _ in range(plan["clients"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def head_all(plan: Plan) -> list[dict[str, Any]]:
    """HEAD one target over keep-alive connections; wrk would wait for a body that never comes."""
    request = _request("HEAD", plan["targets"][0], plan["headers"])
    poll = select.epoll()
    connections = {}
    for _ in range(plan["clients"]):
        connection = socket.create_connection(("127.0.0.1", plan["port"]), plan["patience"])
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
        connection.sendall(request)
    answered, began = 0, time.perf_counter()
    until = began + plan["seconds"]
    while time.perf_counter() < until:
        for descriptor, _ in poll.poll(plan["patience"]):
            connection = connections[descriptor]
            answer = connection.recv(16 * 1024)
            if not (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n")):
                return [{"error": f"answered {answer[:80]!r}"}]
            answered += 1
            connection.sendall(request)
    return [{"status": 200, "requests": answered, "seconds": time.perf_counter() - began}]


def _request(method: str, target: str, headers: dict[str, str]) -> bytes:
    fields = {"Host": "localhost", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode()


def _parse(head: bytes) -> tuple[int, int]:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if "content-length" not in fields:
        raise ValueError(f"{status_line}, without a length")
    return int(status_line.split()[1]), int(fields["content-length"])


if __name__ == "__main__":
    wanted: Plan = json.loads(sys.argv[1])
    json.dump(head_all(wanted) if wanted["method"] == "HEAD" else pull_all(wanted), sys.stdout)
