"""Load on a pipeline that is served: clients that leave, a queue that is full, and what of it may be left afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
from hypothesis import settings

from llmasos_hookspecs import Endpoint
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_serve_http.threads import Threads

from .http_clients import begun, chat_body, shown, streamed, whole

CHAT = "/v1/chat/completions"
#: 200, and 1,000 with ``make test-long``.
CLIENTS = 2 * settings.default.max_examples
#: Clients at once.
AT_ONCE = 50


@attrs.frozen(eq=False)
class Served:
    """A pipeline behind keys; ``store``: of these."""

    pipeline: Any
    servers: Any
    store: Any

    @property
    def endpoint(self) -> Endpoint:
        found: Endpoint = self.servers.endpoints[0]
        return found

    def key(self, tenant: str, **limits: Any) -> str:
        """A new key."""
        from llmasos_access_keys.keys import KeyLimits

        text: str = self.store.keys.create(tenant, tenant=tenant, now=time.time(), limits=KeyLimits(**limits))[1]
        return text

    def audited(self) -> int:
        """How many events are recorded, of all that was done so far."""
        done = threading.Event()
        self.servers.runtime._desk.errands.add(done.set)
        assert done.wait(60)
        return len(list(self.store.log.events()))

    def held(self) -> dict[str, int]:
        """What requests hold at this moment."""
        usage, runtime = self.pipeline.model.usage(), self.servers.runtime
        with self.store.database.read() as connection:
            (reservations,) = connection.execute("SELECT count(*) FROM reservations").fetchone()
        return {
            "running": usage.get("running", 0),
            "waiting": usage.get("waiting", 0),
            "leases": usage["leases"],
            "seats": runtime._waiting.taken,
            "queued for memory": len(self.pipeline.composer.residency.queue),
            "requests": runtime.active,
            "reservations": reservations,
        }


def counting(monkeypatch: pytest.MonkeyPatch, of: Any, name: str) -> Callable[[], int]:
    """How often a method was called so far."""
    called, calls = getattr(of, name), []

    def counted(*arguments: Any, **more: Any) -> Any:
        calls.append(name)
        return called(*arguments, **more)

    monkeypatch.setattr(of, name, counted)
    return lambda: len(calls)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """``serve(**scheduler)``: a pipeline whose model is not loaded yet, on a socket."""
    llmasos, keys = pytest.importorskip("llmasos"), pytest.importorskip("llmasos_access_keys.store")
    tiny_checkpoint(folder=tmp_path / "tiny")
    opened: list[Any] = []

    def make(**scheduler: Any) -> Served:
        config = {
            "model": {"source": str(tmp_path / "tiny")},
            "loader": {"use": "onnx", "threads": 1},
            "scheduler": {"use": "fifo", **scheduler},
            "access": {"use": "keys", "folder": str(tmp_path / "access")},
            "server": [{"use": "http", "port": 0, "temperature": 0.0}],
        }
        pipeline = llmasos.Pipeline.from_config(config)
        servers = llmasos.Servers(pipeline)
        servers.start()
        opened.extend((servers.stop, pipeline.close))
        return Served(pipeline, servers, keys.open_store(tmp_path / "access"))

    yield make
    for close in opened:
        close()


def until(true: Callable[[], object], seen: Callable[[], object]) -> None:
    for _ in range(3000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"It did not come to be within 30 seconds: {seen()}")


def sockets() -> int:
    """Those that the process has open."""
    found = 0
    for descriptor in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the one that lists
            found += stat.S_ISSOCK(os.fstat(int(descriptor)).st_mode)
    return found


def test_clients_that_leave_at_random_moments_leak_nothing(serve: Callable[..., Served], caplog: pytest.LogCaptureFixture) -> None:
    """While the model is being loaded, in the queue, in prefill and in decode, streamed or not, whole and broken: no slot, lease, seat,
    reservation, thread or socket is left, and nothing is logged."""
    served = serve(max_sequences=3)
    keys = [served.key(f"tenant-{number}") for number in range(4)]
    before = set(threading.enumerate())
    opened, chance = sockets(), random.Random(7)
    for _ in range(0, CLIENTS, AT_ONCE):
        connections = []
        for _ in range(AT_ONCE):
            body = chat_body("天气 " * chance.choice([1, 1, 40]), max_tokens=chance.randint(1, 40), ignore_eos=True)
            body |= {"stream": chance.random() < 0.5, "n": chance.choice([1, 1, 1, 3])}
            path = chance.choice([CHAT, CHAT, "/v1/messages", "/v1/completions"])
            body |= {"prompt": "天气"} if path == "/v1/completions" else {}
            connections.append(begun(served.endpoint, path, body, chance.choice(keys)))
        chance.shuffle(connections)
        for connection in connections:
            if chance.random() < 0.3:
                connection.settimeout(30)
                connection.recv(chance.randrange(1, 2000))
            connection.close()
    until(lambda: not any(served.held().values()) and sockets() <= opened, lambda: (served.held(), sockets(), opened))
    found = whole(served.endpoint, CHAT, chat_body("hi", max_tokens=3, ignore_eos=True), keys[0])
    assert found["usage"]["completion_tokens"] == 3
    threads = [thread.name for thread in set(threading.enumerate()) - before]
    assert not [name for name in threads if name.startswith("llmasos-residency")]
    assert threads.count("llmasos-admission") <= 16
    assert caplog.messages == []


def test_a_full_queue_is_429_at_once_and_what_was_taken_is_answered(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as many as there is room for, streamed or not, while the engine does nothing: the excess does not wait for it, and is told
    when to come again; no stream begins that is refused then, and nothing is done for it that would be taken from the others."""
    served = serve(max_sequences=2, max_queue=4)
    key = served.key("t")
    body = chat_body("hi", max_tokens=8, ignore_eos=True)
    whole(served.endpoint, CHAT, body, key)
    gate, answers = threading.Event(), list[httpx.Response]()
    # What stands before an answer: a thread that prepares it, an encoded prompt, the engine's loop that takes it in, and a thread of the
    # server's.
    works = [
        counting(monkeypatch, served.servers.runtime._waiting, "_advance"),
        counting(monkeypatch, type(served.pipeline.model._host._running.prompts), "encode"),
        counting(monkeypatch, served.pipeline.model._host._running.loop._inbox, "send"),
        counting(monkeypatch, Threads, "call"),
    ]
    loop = served.pipeline.model._host._running.loop
    loop._inbox.send(lambda: gate.wait(30))
    limits = httpx.Limits(max_connections=60)
    with httpx.Client(base_url=served.endpoint.url, headers=shown(key), timeout=60, limits=limits) as client:

        def ask(stream: bool) -> None:
            answers.append(client.post(CHAT, json={**body, "stream": stream}))

        clients = [threading.Thread(target=ask, args=(number % 2 == 0,), daemon=True) for number in range(60)]
        for each in clients:
            each.start()
        try:
            until(lambda: len(answers) >= 50, lambda: len(answers))
            refused = list(answers)
            assert {answer.status_code for answer in refused} == {429}
            assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
            assert {answer.json()["error"]["code"] for answer in refused} == {"rate_limit_exceeded"}
            began, told = [work() for work in works], served.audited()
            assert {client.post(CHAT, json={**body, "stream": number % 2 == 0}).status_code for number in range(10)} == {429}
            assert ([work() for work in works], served.audited()) == (began, told), "the excess costs what is answered no work"
        finally:
            gate.set()
        for each in clients:
            each.join(60)
    assert len(answers) == 60
    taken = [answer for answer in answers if answer.status_code == 200]
    assert len(taken) >= 4
    assert all("length" in answer.text for answer in taken)
    until(lambda: not any(served.held().values()), served.held)


def test_one_key_cannot_take_every_seat(serve: Callable[..., Served]) -> None:
    """Requests count against their key from their arrival: the fifth is refused while the first four wait for the model, and another
    client's goes on."""
    served = serve()
    greedy, other = served.key("greedy", concurrency=4), served.key("other")
    gate = threading.Event()
    host = served.pipeline.model._host
    load = host._load
    host._load = lambda *arguments: (gate.wait(30), load(*arguments))[1]
    body = chat_body("hi", max_tokens=2, ignore_eos=True)
    held = [begun(served.endpoint, CHAT, body, greedy) for _ in range(4)]
    try:
        until(lambda: served.held()["seats"] == 4, served.held)
        answer = httpx.post(f"{served.endpoint.url}{CHAT}", json=body, headers=shown(greedy), timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
        assert int(answer.headers["retry-after"]) > 0
        waiting = begun(served.endpoint, CHAT, body, other)
        until(lambda: served.held()["seats"] == 5, served.held)
        held.pop().close()  # gone while it waits: its seat and its place are free before the model is there
        until(lambda: served.held()["seats"] == 4, served.held)
        held += [begun(served.endpoint, CHAT, body, greedy), waiting]
        until(lambda: served.held()["seats"] == 5, served.held)
        assert served.held()["reservations"] == 0
    finally:
        gate.set()
    for connection in held:
        with connection:
            connection.settimeout(30)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    until(lambda: not any(served.held().values()), served.held)


def test_no_text_is_lost_where_an_answer_ends(serve: Callable[..., Served]) -> None:
    """Text that was held back, because a stop string could have begun with it, comes before the finish, and usage after it."""
    served = serve()
    key = served.key("t")
    body = chat_body("天气", max_tokens=12, ignore_eos=True)
    text = whole(served.endpoint, CHAT, body, key)["choices"][0]["message"]["content"]
    for held in range(1, 5):
        asked = {**body, "stop": [text[-held:] + "no"], "stream_options": {"include_usage": True}}
        *chunks, usage = streamed(served.endpoint, CHAT, asked, key)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert usage["usage"]["completion_tokens"] == 12


def test_an_address_changes_nothing(serve: Callable[..., Served]) -> None:
    """What stands after its question mark is no field of the request, and asks for nothing."""
    served = serve()
    key = served.key("t")
    body = chat_body("hi", max_tokens=5, ignore_eos=True)
    query = "?model=other&stream=true&max_tokens=1&n=2&prompt=x&q=x&messages=[]"
    found = whole(served.endpoint, f"{CHAT}{query}", body, key)
    assert (len(found["choices"]), found["usage"]["completion_tokens"]) == (1, 5)
    for path in (CHAT, "/v1/completions", "/v1/messages", "/api/chat"):
        assert httpx.get(f"{served.endpoint.url}{path}{query}", headers=shown(key)).status_code == 405
    assert httpx.post(f"{served.endpoint.url}/v1/completions{query}", json={}, headers=shown(key)).status_code == 400
