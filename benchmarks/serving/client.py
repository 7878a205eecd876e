"""A client in a process of its own: asks a server for many streams at once, and prints what it saw as JSON.

    python -m benchmarks.serving.client URL STREAMS TOKENS FIRST CHARACTERS [RATE]

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
from typing import Any
from urllib.parse import urlsplit

import attrs

from benchmarks.serving.figures import Run
from benchmarks.serving.prompts import prompts
from benchmarks.serving.seen import Arrival, Seen, seen_in

#: What ends an answer that is sent in chunks: the line of an empty one, which follows the end of another or of the head.
_END = b"\r\n0\r\n\r\n"


def main(url: str, streams: int, tokens: int, first: int, characters: int, rate: float = 0.0) -> Run:
    """Ask for ``streams`` answers of ``tokens`` tokens: all at once, or ``rate`` in each second, whatever is answered meanwhile."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or 80
    assert host is not None
    requests = [_request(host, port, text, tokens) for text in prompts(streams, first, characters)]
    cpu, began = time.process_time(), time.perf_counter()
    received = receive(lambda: socket.create_connection((host, port)), requests, rate)
    cpu = time.process_time() - cpu
    found = [seen_in(at, arrivals) for at, arrivals in received]
    run = attrs.evolve(summed(found, began), client_cpu=cpu)
    if rate:
        return attrs.evolve(
            run, **overload(found), total=run.seconds, late=[each.began - began - place / rate for place, each in enumerate(found)]
        )
    return run


def receive(connect: Callable[[], socket.socket], requests: Sequence[bytes], rate: float) -> list[tuple[float, list[Arrival]]]:
    """When each request was sent, and what came of it."""
    found: list[tuple[float, list[Arrival]]] = []
    idle: list[socket.socket] = []
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        while (sent := len(found)) < len(requests) or len(selector.get_map()) > len(idle):
            if sent < len(requests) and time.perf_counter() - began >= (sent / rate if rate else 0.0):
                free = idle.pop() if idle else _connected(connect, selector)
                found.append((time.perf_counter(), []))
                free.sendall(requests[sent])
                selector.modify(free, selectors.EVENT_READ, found[-1][1])
                continue
            until = None if sent == len(requests) else max(0.0, began + sent / rate - time.perf_counter())
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


def _request(host: str, port: int, prompt: str, tokens: int) -> bytes:
    """One completion as a stream."""
    fields = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True, "cache_prompt": False}
    body = json.dumps(fields | {"stream_options": {"include_usage": True}}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def summed(found: Sequence[Seen], began: float) -> Run:
    """All of it, from the first request to the last answer."""
    answered = [each for each in found if each.status == 200]
    return Run(
        seconds=max((each.ended for each in answered), default=began) - began,
        tokens=sum(each.tokens for each in answered),
        first=[each.came[0] - each.began for each in answered if each.came],
        refused=[each.ended - each.began for each in found if each.status == 429],
        failed=sum(each.status not in (200, 429) for each in found),
    )


def overload(found: Sequence[Seen]) -> dict[str, Any]:
    """Seconds and tokens while more came than could be answered: from the first refusal to the last request. What is before, while the
    queue fills, and after, while ever fewer streams are left, is no overload."""
    start = min((each.ended for each in found if each.status == 429), default=found[0].began)
    end = found[-1].began
    tokens = sum(each.tokens_between(start, end) for each in found if each.status == 200)
    return {"seconds": max(0.0, end - start), "tokens": round(tokens)}


if __name__ == "__main__":
    address, *numbers = sys.argv[1:]
    print(json.dumps(attrs.asdict(main(address, *map(int, numbers[:4]), *map(float, numbers[4:])))))
