"""The server on a socket: silence, leaving, stopping, and bytes that arrive slowly or never."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Callable

import httpx
import pytest

from llmasos_hookspecs import Endpoint, ResourceError
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http import connections
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

from .http_clients import begun, chat_body, streamed, until, whole

CHAT = "/v1/chat/completions"
Start = Callable[..., HttpServer]


@pytest.fixture(autouse=True, params=[connections._FEW, -1], ids=["each sends at once", "gathered"])
def _sending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few connections, and as if they were many."""
    monkeypatch.setattr(connections, "_FEW", request.param)


def endpoint_of(server: HttpServer) -> Endpoint:
    return server.endpoints[0]


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    connection.settimeout(120)
    found = b""
    while part := connection.recv(1 << 16):
        found += part
    return found


def test_a_silent_stream_gets_comments(start: Start, runtime: ScriptedRuntime) -> None:
    """While the model computes and while it is being loaded, every 10 seconds if no option says otherwise; they change nothing of it."""
    assert Options().comment_every == 10.0
    gate = threading.Event()
    runtime.script["wait"] = ("The", gate, " otters")
    server = start(comment_every=0.05)
    with begun(endpoint_of(server), CHAT, chat_body("wait", stream=True)) as connection:
        found = b""
        while found.count(b": waiting\n\n") < 3:
            found += connection.recv(1 << 16)
        assert b'"content":"The"' in found
        gate.set()
        while b"data: [DONE]" not in found:
            found += connection.recv(1 << 16)
        assert b'"content":" otters"' in found
    runtime.loading = threading.Event()
    with begun(endpoint_of(server), CHAT, chat_body("later", stream=True)) as connection:
        found = b""
        while b": waiting\n\n" not in found:
            found += connection.recv(1 << 16)
        assert b"data: " not in found
        runtime.loading.set()
        while b"data: [DONE]" not in found:
            found += connection.recv(1 << 16)
        assert b'"content":"later"' in found


def test_a_request_that_is_refused_after_a_comment_ends_with_an_error_event(start: Start, runtime: ScriptedRuntime) -> None:
    runtime.loading = threading.Event()
    endpoint = endpoint_of(start(comment_every=0.05))
    with httpx.stream("POST", f"{endpoint.url}{CHAT}", json=chat_body("", stream=True), timeout=120) as answer:
        assert answer.status_code == 200
        runtime.loading.set()
        text = "".join(answer.iter_text())
    assert "The prompt is empty" in text
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_while_the_model_is_being_loaded_leave_nothing(start: Start, runtime: ScriptedRuntime, stream: bool) -> None:
    """Forty of them, more than the threads of any pool; others are answered meanwhile."""
    runtime.loading = threading.Event()
    server = start()
    connections = [begun(endpoint_of(server), CHAT, chat_body("hi", stream=stream)) for _ in range(40)]
    until(lambda: server._application.gate.active == 40)
    assert httpx.get(f"{endpoint_of(server).url}/v1/models").status_code == 200
    for connection in connections:
        connection.close()
    until(lambda: server._application.gate.active == 0)
    runtime.loading.set()
    assert whole(endpoint_of(server), CHAT, chat_body("hello"))["choices"][0]["message"]["content"] == "hello"
    assert runtime.prompts == ["hello"]


@pytest.mark.parametrize("stream", [True, False])
def test_stop_tells_each_client_why(start: Start, runtime: ScriptedRuntime, stream: bool) -> None:
    """Those whose answer had begun, and those who waited for a model."""
    runtime.script["wait"] = ("The", threading.Event())
    server = start()
    running = begun(endpoint_of(server), CHAT, chat_body("wait", stream=stream))
    sent = b""
    while stream and b'"content":"The"' not in sent:
        sent += running.recv(1 << 16)
    until(lambda: runtime.answers)
    runtime.loading = threading.Event()
    waiting = begun(endpoint_of(server), CHAT, chat_body("hi", stream=stream))
    until(lambda: server._application.gate.active == 2)
    server.stop()
    for connection, begins, before in ((running, stream, sent), (waiting, False, b"")):
        with connection:
            found = before + received(connection)
        assert b"server_stopped" in found
        assert found.startswith(b"HTTP/1.1 200" if begins else b"HTTP/1.1 503")
        assert found.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") == begins
    assert runtime.answers[0].cancelled.is_set()


def test_a_client_that_never_reads_does_not_hold_stop_up(start: Start, runtime: ScriptedRuntime) -> None:
    runtime.script["long"] = tuple("x" * 100_000 for _ in range(300))
    server = start()
    with begun(endpoint_of(server), CHAT, chat_body("long", stream=True)):
        until(lambda: runtime.answers)
        server.stop()
    assert runtime.answers[0].cancelled.is_set()


def test_slow_bodies_and_long_headers_are_ended(start: Start, runtime: ScriptedRuntime) -> None:
    slow, long = endpoint_of(start(body_timeout=0.1)), endpoint_of(start(max_headers=4096, max_body=1000))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    for endpoint, rest, status in (
        (slow, "Content-Length: 100\r\n\r\n{", b"408"),
        (long, "Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + "x" * 2000 + "\r\n", b"413"),
        (long, "Content-Length: 1001\r\n\r\n", b"413"),
        (long, "X-Long: " + "x" * 5000 + "\r\n\r\n", b"400"),
        (long, "Host: other.example\r\n\r\n", b"400"),
    ):
        with socket.create_connection((endpoint.host, endpoint.port), timeout=120) as connection:
            connection.sendall((head + rest).encode())
            assert received(connection).startswith(b"HTTP/1.1 " + status), rest[:40]
    assert runtime.prompts == []


def test_headers_that_never_come_are_not_waited_for(start: Start) -> None:
    """On a new connection, in the middle of headers, and in those of a second request; a slow answer is no reason to close."""
    endpoint = endpoint_of(start(header_timeout=1.0))
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for sent, answers in ((b"", 0), (b"GET / HT", 0), (first + b"GET /healthz", 1)):
        with socket.create_connection((endpoint.host, endpoint.port), timeout=120) as connection:
            connection.sendall(sent)
            assert received(connection).count(b"HTTP/1.1 200") == answers


def test_an_answer_may_take_longer_than_headers(start: Start, runtime: ScriptedRuntime) -> None:
    gate = threading.Event()
    runtime.script["wait"] = ("The", gate, " otters")
    threading.Timer(0.5, gate.set).start()
    found = whole(endpoint_of(start(header_timeout=0.1)), CHAT, chat_body("wait"))
    assert found["choices"][0]["message"]["content"] == "The otters"


def test_whole_and_streamed_answers_are_equal_for_every_split(start: Start, runtime: ScriptedRuntime) -> None:
    endpoint = endpoint_of(start())
    text = 'data: x\n\n[DONE] 今天\u2028🙂 e\u0301 {"a": "\\n"}'
    for place in range(len(text) + 1):
        runtime.script["tell"] = (text[:place], text[place:])
        pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in streamed(endpoint, CHAT, chat_body("tell"))]
        assert "".join(pieces) == whole(endpoint, CHAT, chat_body("tell"))["choices"][0]["message"]["content"] == text


def test_a_connection_is_used_again(start: Start) -> None:
    endpoint = endpoint_of(start())
    with httpx.Client(base_url=endpoint.url) as client:
        for _ in range(3):
            assert client.post(CHAT, json=chat_body("hi")).status_code == 200
            assert client.post(CHAT, json={}).status_code == 400


def test_no_part_of_an_answer_waits_for_an_acknowledgement(start: Start) -> None:
    """Nagle's algorithm is off: with it a stream's parts come 40 ms apart."""
    server = start()
    with httpx.Client(base_url=endpoint_of(server).url) as client:
        assert client.get("/healthz").status_code == 200
        assert server._server is not None
        (connection,) = server._server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")  # type: ignore[union-attr]  # there is one
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_connections_that_are_being_accepted_while_the_server_ends_are_closed(start: Start) -> None:
    """The loop's next turn accepts them, and ends the server."""
    server = start()
    endpoint = endpoint_of(server)
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        end.wait(60)

    server._on_loop(hold)
    assert held.wait(60)
    connections = [socket.create_connection((endpoint.host, endpoint.port), timeout=60) for _ in range(3)]
    assert server._server is not None
    server._on_loop(server._server.end)
    end.set()
    for connection in connections:
        with connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    server.stop()
    gc.collect()  # pytest fails where a socket was forgotten


def test_an_address_that_is_no_address_is_a_resource_error(runtime: ScriptedRuntime) -> None:
    server = HttpServer(runtime, Options(host="192.0.2.1", port=0))
    with pytest.raises(ResourceError, match=r"192\.0\.2\.1"):
        server.start()
    server.stop()
