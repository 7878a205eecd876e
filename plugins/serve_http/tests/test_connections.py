"""HTTP/1.1 itself: what is refused, what is answered on one connection, and in which order."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http import connections
from llmasos_serve_http.exchange import Exchange
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options
from llmasos_serve_http.outbox import Outbox

from .http_clients import chat_body, until

CHAT = "/v1/chat/completions"
Start = Callable[..., HttpServer]

BODY = json.dumps(chat_body("hi")).encode()
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True, params=[connections._FEW, -1], ids=["each sends at once", "gathered"])
def _sending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few connections, and as if they were many."""
    monkeypatch.setattr(connections, "_FEW", request.param)


def post(*headers: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    """A request for a chat with these headers beside those that it must have."""
    lines = [b"POST %b %b" % (CHAT.encode(), version), b"Host: localhost", b"Content-Type: application/json", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, *trailers: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, b"".join(trailer + b"\r\n" for trailer in trailers))


CHUNKED = b"Transfer-Encoding: chunked"
WHOLE = b"Content-Length: %d" % len(BODY)


def connected(server: HttpServer) -> socket.socket:
    endpoint = server.endpoints[0]
    return socket.create_connection((endpoint.host, endpoint.port), timeout=120)


def answers(server: HttpServer, *sent: bytes) -> bytes:
    """All that comes until the server closes the connection; each part is sent after the one before."""
    with connected(server) as connection:
        for part in sent:
            connection.sendall(part)
        found = b""
        while part := connection.recv(1 << 16):
            found += part
    return found


REFUSED = {
    "a header goes on in the next line": post(WHOLE, b"X-Long: a\r\n b", body=BODY),
    "a length goes on in the next line": post(b"Content-Length: 1\r\n 0", body=BODY),
    "a length and chunks": post(WHOLE, CHUNKED, body=chunked(BODY)),
    "chunks and a length": post(CHUNKED, WHOLE, body=chunked(BODY)),
    "two lengths": post(WHOLE, b"Content-Length: 1", body=BODY),
    "one length twice": post(WHOLE, WHOLE, body=BODY),
    "a list of lengths": post(b"Content-Length: 1, 1", body=BODY),
    "a length with a sign": post(b"Content-Length: +%d" % len(BODY), body=BODY),
    "a length of too many digits": post(b"Content-Length: " + b"9" * 30, body=BODY),
    "a space before the colon": post(b"Content-Length : %d" % len(BODY), body=BODY),
    "another coding": post(b"Transfer-Encoding: gzip", body=BODY),
    "another coding before chunks": post(b"Transfer-Encoding: gzip, chunked", body=chunked(BODY)),
    "chunks twice": post(CHUNKED, CHUNKED, body=chunked(BODY)),
    "a coding that ends alike": post(b"Transfer-Encoding: xchunked", body=chunked(BODY)),
    "a coding behind a control character": post(b"Transfer-Encoding: \x0bchunked", body=chunked(BODY)),
    "chunks in HTTP/1.0": post(CHUNKED, body=chunked(BODY), version=b"HTTP/1.0"),
    "a chunk's size is none": post(CHUNKED, body=b"zz\r\n"),
    "a chunk's size with a prefix": post(CHUNKED, body=b"0x3\r\nabc\r\n0\r\n\r\n"),
    "a chunk's size with a sign": post(CHUNKED, body=b"-3\r\nabc\r\n0\r\n\r\n"),
    "a chunk's size that overflows": post(CHUNKED, body=b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n"),
    "a chunk is longer than its size": post(CHUNKED, body=b"3\r\nabcd\r\n0\r\n\r\n"),
    "a chunk's extension has no end": post(CHUNKED, body=b"3;" + b"a" * 5000),
    "trailers have no end": post(CHUNKED, body=b"0\r\n" + b"X-Trailer: abcdefgh\r\n" * 300),
    "lines end with LF": HEALTH.replace(b"\r\n", b"\n"),
    "a header holds CR": HEALTH.replace(b"\r\n\r\n", b"\r\nX-A: a\rX-B: b\r\n\r\n"),
    "a header holds NUL": HEALTH.replace(b"\r\n\r\n", b"\r\nX-A: a\0b\r\n\r\n"),
    "a header's name has a space": HEALTH.replace(b"\r\n\r\n", b"\r\nX A: a\r\n\r\n"),
    "a header without a name": HEALTH.replace(b"\r\n\r\n", b"\r\n: a\r\n\r\n"),
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two Hosts": HEALTH.replace(b"\r\n\r\n", b"\r\nHost: localhost\r\n\r\n"),
    "HTTP/2.0": HEALTH.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "HTTP/2.0, with an upgrade": HEALTH.replace(b"HTTP/1.1", b"HTTP/2.0\r\nConnection: upgrade\r\nUpgrade: h2c"),
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "no such method": HEALTH.replace(b"GET", b"FOO"),
    "a path that is no ASCII": HEALTH.replace(b"/healthz", "/ä".encode()),
    "a space in the path": HEALTH.replace(b"/healthz", b"/a b"),
    "long headers": HEALTH.replace(b"\r\n\r\n", b"\r\nX-Long: " + b"a" * 5000 + b"\r\n\r\n"),
    "many headers": HEALTH.replace(b"\r\n\r\n", b"\r\nX-One: a" * 1000 + b"\r\n\r\n"),
    "a header without end": HEALTH[:-4] + b"\r\nX-Long: " + b"a" * 5000,
    "a long path": HEALTH.replace(b"/healthz", b"/" + b"a" * 5000),
}


@pytest.fixture(scope="module")
def refusing() -> Iterator[tuple[HttpServer, ScriptedRuntime]]:
    """One server for all that it refuses, and its runtime."""
    runtime = ScriptedRuntime()
    server = HttpServer(runtime, Options(port=0, max_headers=4096))
    server.start()
    yield server, runtime
    server.stop()


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("after", [b"", HEALTH])
def test_what_two_readers_could_read_in_two_ways_is_refused(
    refusing: tuple[HttpServer, ScriptedRuntime], sent: bytes, after: bytes
) -> None:
    """With 400, once, on a connection that is closed then: what follows is not taken for a request. It makes no difference that a request
    that is none follows one that was answered."""
    server, runtime = refusing
    found = answers(server, after + sent + HEALTH)
    before, _, refusal = found.rpartition(b"HTTP/1.1 400 ")
    assert (before.count(b"HTTP/1.1 "), before.count(b"HTTP/1.1 200 ")) == ((1, 1) if after else (0, 0)), found
    assert b"connection: close" in refusal
    assert runtime.prompts == []


def test_requests_of_one_connection_are_answered_in_their_order(start: Start, runtime: ScriptedRuntime) -> None:
    """All sent at once, with bodies of both forms; a streamed answer is not mixed with those that follow."""
    stream = json.dumps(chat_body("one", stream=True)).encode()
    second = json.dumps(chat_body("two")).encode()
    sent = post(b"Content-Length: %d" % len(stream), body=stream) + post(CHUNKED, body=chunked(second)) + HEALTH + LAST
    found = answers(start(), sent)
    assert found.count(b"HTTP/1.1 200 OK") == 4
    places = [found.index(each) for each in (b"[DONE]\n\n\r\n0\r\n\r\nHTTP/1.1", b'"content":"two"', b'{"status":"ok"}')]
    assert places == sorted(places)
    assert runtime.prompts == ["one", "two"]


def test_more_requests_than_may_wait_are_not_read(start: Start, runtime: ScriptedRuntime) -> None:
    gate = threading.Event()
    runtime.script["wait"] = (gate, "The")
    body = json.dumps(chat_body("wait")).encode()
    with connected(start()) as connection:
        connection.sendall(post(b"Content-Length: %d" % len(body), body=body) + HEALTH * 100)
        until(lambda: runtime.answers)
        gate.set()
        found = b""
        while part := connection.recv(1 << 16):
            found += part
    assert (found.count(b"HTTP/1.1 200"), found.count(b"HTTP/1.1 400")) == (17, 1)


def test_a_stream_is_not_cut_by_what_follows_its_request(start: Start, runtime: ScriptedRuntime) -> None:
    """Bytes that are no HTTP are answered behind it."""
    gate = threading.Event()
    runtime.script["wait"] = ("The", gate, " otters")
    body = json.dumps(chat_body("wait", stream=True)).encode()
    with connected(start()) as connection:
        connection.sendall(post(b"Content-Length: %d" % len(body), body=body))
        found = b""
        while b'"content":"The"' not in found:
            found += connection.recv(1 << 16)
        connection.sendall(b"no HTTP\r\n\r\n")
        gate.set()
        while part := connection.recv(1 << 16):
            found += part
    assert b'"content":" otters"' in found
    assert found.index(b"[DONE]\n\n\r\n0\r\n\r\nHTTP/1.1 400") > 0


@pytest.mark.parametrize("more", [b"", HEALTH, post(WHOLE, body=BODY[:-1])])
def test_a_client_that_leaves_is_noticed_behind_further_requests(start: Start, runtime: ScriptedRuntime, more: bytes) -> None:
    """Also where one of them waits, or has not come whole."""
    runtime.script["wait"] = ("The", threading.Event())
    body = json.dumps(chat_body("wait")).encode()
    server = start()
    with connected(server) as connection:
        connection.sendall(post(b"Content-Length: %d" % len(body), body=body) + more)
        until(lambda: runtime.answers)
    assert runtime.answers[0].cancelled.wait(120)
    until(lambda: server._application.gate.active == 0)


def test_trailers_are_read_by_nobody(start: Start, runtime: ScriptedRuntime) -> None:
    """A key in them is none: who asks is decided before the body has come."""
    runtime.open = False
    found = answers(start(), post(CHUNKED, b"Connection: close", body=chunked(BODY, b"X-Api-Key: the-key-of-the-kit", b"Host: other")))
    assert found.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("body", [b"", BODY])
def test_an_upgrade_is_not_made(start: Start, body: bytes) -> None:
    """The request is answered as if it had not asked, body and all, and so is the next: Java's client asks with each first request."""
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: x", b"Content-Length: %d" % len(body))
    found = answers(start(), post(*upgrade, body=body), post(*upgrade, body=body) + LAST)
    assert found.count(b"HTTP/1.1 200 ") == (3 if body else 1)
    assert found.count(b"HTTP/1.1 ") == 3


def test_a_tunnel_is_not_made(start: Start) -> None:
    """What follows is no request."""
    found = answers(start(), b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n" + HEALTH)
    assert found.startswith(b"HTTP/1.1 404 ")
    assert found.count(b"HTTP/1.1 ") == 1


def test_a_body_is_asked_for_where_its_client_waits(start: Start) -> None:
    """With 100 Continue; one that is refused before ends the connection, because nobody knows whether the body still comes."""
    server = start()
    with connected(server) as connection:
        connection.sendall(post(b"Expect: 100-continue", b"Connection: close", WHOLE))
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    found = answers(server, post(b"Expect: 100-continue", WHOLE).replace(b"localhost", b"other.example"))
    assert found.startswith(b"HTTP/1.1 421 ")
    assert b"connection: close" in found


def test_an_answer_to_head_has_no_body(start: Start) -> None:
    head, _, rest = answers(start(), HEALTH.replace(b"GET", b"HEAD") + LAST).partition(b"\r\n\r\n")
    assert b"content-length: 15" in head
    assert rest.startswith(b"HTTP/1.1 200 ")


def test_a_body_that_waits_is_not_read_on(start: Start, runtime: ScriptedRuntime) -> None:
    """A client cannot have the server keep more than a little behind a request that takes long; all of it is answered in the end."""
    gate = threading.Event()
    runtime.script["wait"] = (gate, "The")
    first = json.dumps(chat_body("wait")).encode()
    second = json.dumps(chat_body("hi", user="x" * 4_000_000)).encode()
    server = start()
    sent = threading.Event()

    def send(connection: socket.socket) -> None:
        connection.sendall(post(b"Content-Length: %d" % len(first), body=first))
        connection.sendall(post(b"Content-Length: %d" % len(second), b"Connection: close", body=second))
        sent.set()

    with connected(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # else the system holds all of it for the server
        threading.Thread(target=send, args=(connection,), daemon=True).start()
        assert server._server is not None
        until(lambda: [each for each in server._server.server_state.connections if each.read_paused])  # type: ignore[union-attr]
        assert not sent.is_set()
        gate.set()
        found = b""
        while part := connection.recv(1 << 16):
            found += part
    assert found.count(b"HTTP/1.1 200 ") == 2


def test_several_tasks_may_wait_for_a_client_to_leave() -> None:
    """As applications do that are handed a request: MCP's reads it and listens for its end at once."""

    async def both() -> list[Any]:
        exchange = Exchange(Mock(read_paused=False), {}, keep_alive=True, expects=False)
        waiting = [asyncio.create_task(exchange.receive()) for _ in range(2)]
        await asyncio.sleep(0)
        exchange.leave()
        return await asyncio.wait_for(asyncio.gather(*waiting), 120)

    assert asyncio.run(both()) == [{"type": "http.disconnect"}] * 2


@pytest.fixture
def server(start: Start) -> HttpServer:
    return start()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(1, 400), max_size=6))
def test_it_makes_no_difference_how_requests_are_cut(server: HttpServer, places: list[int]) -> None:
    """Into what the system gives at once."""
    sent = post(CHUNKED, body=chunked(BODY, b"X-Trailer: a")) + post(WHOLE, body=BODY) + LAST
    cuts = [0, *sorted({place for place in places if place < len(sent)}), len(sent)]
    found = answers(server, *(sent[begin:end] for begin, end in itertools.pairwise(cuts)))
    assert (found.count(b"HTTP/1.1 200 "), found.count(b"HTTP/1.1 ")) == (3, 3)


def test_what_many_connections_send_is_sent_at_the_end_of_a_turn() -> None:
    """In the order in which it came, no more than one part of each connection waits, and what is closed sends first."""
    sent: list[tuple[str, bytes]] = []
    first, second, third = (Mock(write=functools.partial(lambda name, data: sent.append((name, data)), name)) for name in "abc")

    async def main() -> None:
        outbox = Outbox()
        for transport, data in ((first, b"1"), (second, b"2"), (third, b"3")):
            outbox.put(transport, data)
        assert sent == []
        outbox.flush(second)
        outbox.flush(second)
        assert sent == [("b", b"2")]
        outbox.put(first, b"4")
        assert sent == [("b", b"2"), ("a", b"14")]
        outbox.put(first, b"5")
        await asyncio.sleep(0)
        assert sent[2:] == [("c", b"3"), ("a", b"5")]
        assert outbox.parts == {}
        outbox.put(second, b"6")
        await asyncio.sleep(0)
        assert sent[4:] == [("b", b"6")]

    asyncio.run(main())


def test_a_connection_that_cannot_be_written_to_keeps_nothing_from_others() -> None:
    first, broken, last = Mock(), Mock(write=Mock(side_effect=RuntimeError("closed"))), Mock()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        outbox = Outbox()
        for transport in (first, broken, last):
            outbox.put(transport, b"x")
        for _ in range(3):
            await asyncio.sleep(0)
        assert outbox.parts == {}

    asyncio.run(main())
    assert [transport.write.call_count for transport in (first, broken, last)] == [1, 1, 1]
