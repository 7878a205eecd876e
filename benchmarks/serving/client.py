"""A client in a process of its own: asks a server for many streams at once, and prints what it saw as JSON.

    python -m benchmarks.serving.client URL '{"requests": 8, "tokens": 64, "first": 0, "characters": 300}'

It has no cores of its own, so whatever it does is taken from the server. While answers come it does no more than receive them and look at
the clock: one selector, no event loop, no library of HTTP. What they hold is read when the last has come. Like the clients that people use,
it keeps the connection of an answer that has ended for the next request.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import attrs

from benchmarks.serving.figures import Run
from benchmarks.serving.seen import Arrival, run_of, seen_in
from benchmarks.serving.work import Work

#: What ends an answer that is sent in chunks: the line of an empty one, which follows the end of another or of the head.
_END = b"\r\n0\r\n\r\n"


def main(url: str, work: Work) -> Run:
    """Do the work, and tell what came of it."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or 80
    assert host is not None
    requests = [_request(host, port, body) for body in work.bodies()]
    cpu = time.process_time()
    received = receive(lambda: socket.create_connection((host, port)), requests, work)
    cpu = time.process_time() - cpu
    return attrs.evolve(run_of([seen_in(at, arrivals) for at, arrivals in received], work), client_cpu=cpu)


def receive(connect: Callable[[], socket.socket], requests: Sequence[bytes], work: Work) -> list[tuple[float, list[Arrival]]]:
    """When each request of the work was sent, and what came of it."""
    found: list[tuple[float, list[Arrival]]] = []
    idle: list[socket.socket] = []
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        while (sent := len(found)) < len(requests) or len(selector.get_map()) > len(idle):
            may = sent < len(requests) and len(selector.get_map()) - len(idle) < work.most
            if may and time.perf_counter() - began >= work.due(sent):
                free = idle.pop() if idle else _connected(connect, selector)
                found.append((time.perf_counter(), []))
                free.sendall(requests[sent])
                selector.modify(free, selectors.EVENT_READ, found[-1][1])
                continue
            until = max(0.0, began + work.due(sent) - time.perf_counter()) if may else None
            for key, _ in selector.select(until):
                connection, arrivals = key.fileobj, key.data
                assert isinstance(connection, socket.socket)
                part = connection.recv(1 << 16)
                if arrivals is None:  # the server needs a connection that has no request no longer
                    idle.remove(connection)
                else:
                    arrivals.append((time.perf_counter(), part))
                if not part:
                    selector.unregister(connection)
                    connection.close()
                elif _ended(arrivals):
                    selector.modify(connection, selectors.EVENT_READ, None)
                    idle.append(connection)
        for key in list(selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
    return found


def _connected(connect: Callable[[], socket.socket], selector: selectors.BaseSelector) -> socket.socket:
    connection = connect()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(connection, selectors.EVENT_READ)
    return connection


def _ended(arrivals: Sequence[Arrival]) -> bool:
    """Whether an answer is whole: its last chunk has come, or where its length was said, as much."""
    last = arrivals[-1][1]
    if last.endswith(_END) or (len(last) < len(_END) and b"".join(part for _, part in arrivals[-len(_END) :]).endswith(_END)):
        return True
    head, split, body = b"".join(part for _, part in arrivals[:2]).partition(b"\r\n\r\n")
    _, said, length = head.lower().partition(b"content-length:")
    if not split or not said:
        return False
    return len(body) + sum(len(part) for _, part in arrivals[2:]) >= int(length.split(b"\r\n")[0])


def _request(host: str, port: int, body: bytes) -> bytes:
    """The bytes of a request."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


if __name__ == "__main__":
    print(json.dumps(attrs.asdict(main(sys.argv[1], Work(**json.loads(sys.argv[2]))))))
