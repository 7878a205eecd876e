"""What a streamed token costs the server's event loop, counted in calls, which do not depend on how busy the machine is."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from llmasos_hookspecs import Event, FinishEvent, Principal, Prompt, Rejected, TextEvent, TokenPrompt, UsageEvent
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import ScriptedAnswer
from llmasos_serve_http import sse
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.threads import Threads

from .http_clients import chat_body

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
#: Calls of Python and of C functions that one more token costs: 39 when this was written, with the turn of the event loop that 64 streams
#: share; 53 where each token resumes a task, 122 before chunks were prepared, and parts written past ASGI.
MOST_CALLS = 45
#: Of a stream of one token, on a connection of its own: 985 when this was written; 2,130 with h11, six tasks and a regular expression for
#: each route.
MOST_CALLS_OF_A_REQUEST = 1500
#: Of a request that is refused because the queue is full: 780 when this was written; 1,370 with h11, 1,700 with tasks for it. On a machine
#: that does much else the server's own timers are among them, hence the room.
MOST_CALLS_OF_A_REFUSAL = 1250


class Stepping(ScriptedAnswer):
    """An answer of an engine that takes no time: a token of each answer for each turn of the event loop."""

    def __init__(self, tokens: int, n: int) -> None:
        super().__init__(0, "default", (), n)
        self.tokens = tokens

    async def deliver(self, receive: Callable[[Sequence[Event]], Awaitable[None] | None], every: float = 0.0) -> None:
        """As core does where ``every`` is 0: the event loop calls ``receive``, and resumes no task for it."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        steps = self._each_step()

        def step(_: object = None) -> None:
            if (batch := next(steps, None)) is None:
                over.set_result(None)
            elif (rest := receive(batch)) is None:
                loop.call_soon(step)
            else:
                asyncio.ensure_future(rest).add_done_callback(step)

        loop.call_soon(step)
        await over
        self.ended.set()

    def _each_step(self) -> Iterator[Sequence[Event]]:
        for token in range(self.tokens):
            yield [TextEvent(text="word ", tokens=(token,), index=index) for index in range(self._n)]
        yield [UsageEvent(prompt_tokens=1, cached_tokens=0, generated_tokens=self.tokens * self._n)]
        yield [FinishEvent(reason="length", index=index) for index in range(self._n)]


class SteppingRuntime(ScriptedRuntime):
    async def agenerate(
        self, principal: Principal, prompt: Prompt | TokenPrompt, *, model: str | None = None, n: int = 1, **sampling: Any
    ) -> ScriptedAnswer:
        return Stepping(sampling["max_new_tokens"], n)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Refuse everything, as core does where the queue is full."""

        def refuse(*_: Any, **__: Any) -> Coroutine[Any, Any, ScriptedAnswer]:
            raise Rejected("The queue is full.", retry_after=1.0)

        self.agenerate = refuse  # type: ignore[method-assign]  # of this one
        yield
        del self.agenerate


@pytest.fixture
def runtime() -> SteppingRuntime:
    return SteppingRuntime()


def counted(server: HttpServer, body: dict[str, Any]) -> Counter[str]:
    """The calls on the server's thread while it answers."""
    calls: Counter[str] = Counter()

    def count(_frame: Any, event: str, what: Any) -> None:
        if event == "c_call":
            calls[what.__name__] += 1
        elif event == "call":
            calls["in Python"] += 1

    server._on_loop(lambda: sys.setprofile(count))
    try:
        answer = httpx.post(f"{server.endpoints[0].url}{CHAT}", json=body, timeout=60)
    finally:
        server._on_loop(lambda: sys.setprofile(None))
    assert answer.status_code == 429 or answer.text.endswith("data: [DONE]\n\n")
    return calls


def test_a_streamed_token_costs_few_calls(start: Callable[..., HttpServer]) -> None:
    """What one token more takes, the request's own cost left out; and it is one write to the socket, for several answers too."""
    server = start()
    for n in (1, 4):
        few, many = (counted(server, chat_body("hi", stream=True, max_tokens=tokens, n=n)) for tokens in (50, 250))
        assert many["send"] - few["send"] <= 200
        each = (many.total() - few.total()) / 200
        assert 10 < each < MOST_CALLS + 12 * (n - 1), each


def test_a_request_costs_few_calls(start: Callable[..., HttpServer]) -> None:
    """What a stream takes beside its tokens: its connection, its headers and its body read, its beginning and its end written."""
    server = start()
    costs = [counted(server, chat_body("hi", stream=True, max_tokens=1)).total() for _ in range(8)]
    assert 500 < min(costs) < MOST_CALLS_OF_A_REQUEST, sorted(costs)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts how often a thread has slept")
def test_a_server_without_requests_sleeps(start: Callable[..., HttpServer]) -> None:
    """It takes no processor time from models that compute."""
    with httpx.Client(base_url=start().endpoints[0].url) as client:
        assert client.get("/healthz").status_code == 200  # whose connection stays
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "llmasos-http"]

    def slept() -> int:
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])

    time.sleep(0.2)
    before = slept()
    time.sleep(0.5)
    assert slept() - before <= 1


def test_answers_are_dated(start: Callable[..., HttpServer]) -> None:
    before = int(time.time())
    dated = parsedate_to_datetime(httpx.get(start().endpoints[0].url + "/healthz").headers["date"]).timestamp()
    assert before <= dated <= time.time()


@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_costs_few_calls_and_no_thread(
    stream: bool, start: Callable[..., HttpServer], runtime: SteppingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a request that finds the queue full: its connection, its headers and its body read, and the refusal written. Each thread that had
    to wake up for it would wait for the interpreter's lock while the engine's loop holds it."""
    server, threads = start(), []
    monkeypatch.setattr(Threads, "call", lambda *call: threads.append(call))
    with runtime.full():
        # The least of several: a machine that does much else lets the server's own timers run meanwhile.
        costs = [counted(server, chat_body("hi", stream=stream, max_tokens=5)) for _ in range(8)]
    assert threads == []
    assert 500 < min(calls.total() for calls in costs) < MOST_CALLS_OF_A_REFUSAL, sorted(calls.total() for calls in costs)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_step_of_several_answers_is_one_part(path: str, start: Callable[..., HttpServer]) -> None:
    """With the head before the first, and the ends after the last."""
    body = {**(chat_body("hi") if path == CHAT else {"prompt": "hi"}), "stream": True, "max_tokens": 3, "n": 3}
    parts: list[bytes] = []

    async def ask() -> None:
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()
            sent = True
            return {"type": "http.request", "body": orjson.dumps(body)}

        async def send(message: Any) -> None:
            parts.append(message.get("body", b""))

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "scheme": "http", "client": None, "query_string": b""}
        await server._application.gate(scope, receive, send)

    server = start()
    asyncio.run(ask())
    assert [part.count(b"word ") for part in parts if part] == [3, 3, 3, 0]
    assert (parts[-1].count(b'"finish_reason":"length"'), parts[-1].endswith(b"data: [DONE]\n\n")) == (3, True)


@pytest.mark.parametrize("text", ["", "a", "\0 the text \0", 'é"\\ \x7f \u2028\u2029\x85', "\0", "data: x\n\n", "🙂", '","x":"'])
@pytest.mark.parametrize("name", ["m", "\0 the text \0", '"\\u0000 the text \\u0000"'])
def test_an_event_written_beforehand_is_the_event(text: str, name: str) -> None:
    """Whatever the text is, and whatever comes before it in the event."""

    def data(text: str) -> dict[str, Any]:
        return {"model": name, "choices": [{"delta": {"content": text}, "logprobs": None}]}

    assert sse.TextEvents(data, "kind").of(text) == sse.event(data(text), "kind")


def test_parts_of_bodies_are_chunks_of_http(start: Callable[..., HttpServer]) -> None:
    """An answer whose parts were written past ASGI is one that other clients read, and the connection can be used again; a client of
    HTTP/1.0 gets no chunks."""
    endpoint = start().endpoints[0]
    body = chat_body("hi", stream=True, max_tokens=5)
    with httpx.Client(base_url=endpoint.url) as client:
        first, second = (client.post(CHAT, json=body) for _ in range(2))
        assert first.headers["transfer-encoding"] == "chunked"
        assert first.text.count("word ") == second.text.count("word ") == 5

    async def of_1_0() -> bytes:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        encoded = orjson.dumps(body)
        writer.write(b"POST %b HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(encoded), encoded))
        answer = await reader.read()
        writer.close()
        return answer

    head, _, rest = asyncio.run(of_1_0()).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert (rest.count(b"word "), rest.startswith(b"data: "), rest.endswith(b"data: [DONE]\n\n")) == (5, True, True)
