"""``/tokenize``, ``/detokenize`` and ``/v1/tasks``."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs import EngineFailed, NotAllowed, Rejected
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.listening import HttpServer

from .http_clients import begun, chat_body, until
from .in_process import Client, data

Make = Callable[..., Client]


def test_texts_become_tokens_and_tokens_texts(client: Make) -> None:
    assert data(client().post("/tokenize", {"prompt": "hé", "model": None})) == {"count": 3, "tokens": [104, 195, 169]}
    assert data(client().post("/tokenize", chat_body("hi"))) == {"count": 2, "tokens": [104, 105]}
    assert data(client().post("/detokenize", {"tokens": [104, 195, 169]})) == {"prompt": "hé"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": "a", "messages": []}, "prompt"), ("/tokenize", {"prompt": [1]}, "prompt"),
        ("/tokenize", {"messages": "a"}, "messages"), ("/tokenize", {"prompt": "a", "model": 1}, "model"), ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"), ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"), ("/v1/tasks/repeat", {}, "inputs"),
        ("/v1/tasks/repeat", {"inputs": "text"}, "inputs"),
    ],
)  # fmt: skip
def test_what_is_no_such_request_is_refused_by_name(client: Make, path: str, body: Any, param: str) -> None:
    status, error = client().refusal(path, body)
    assert (status, error["param"]) == (400, param)


def test_tasks_are_listed_with_their_schemas_and_run(client: Make) -> None:
    task, other = data(client().ask("GET", "/v1/tasks"))["data"]
    assert (task["streams"], other["streams"]) == (True, False)
    assert data(client().ask("GET", "/v1/tasks/repeat")) == task
    assert (task["id"], task["inputs"]["required"]) == ("repeat", ["text"])
    output = data(client().post("/v1/tasks/repeat", {"inputs": {"text": "hé"}}))
    assert output == {"object": "task.output", "task": "repeat", "output": {"text": "hé"}}
    assert client().refusal("/v1/tasks/repeat", {"inputs": {"words": 1}})[0] == 400
    assert client().refusal("/v1/tasks/other", {"inputs": {}})[0] == 404
    assert client().ask("GET", "/v1/tasks/other").status_code == 404


def test_a_task_that_the_client_may_not_run_is_not_there(client: Make, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotAllowed("You may not.")

    monkeypatch.setattr(runtime, "tasks", lambda _: [])
    monkeypatch.setattr(runtime, "run", refuse)
    assert client().post("/v1/tasks/repeat", {"inputs": {"text": "x"}}).status_code == 404


def pieces(answer: bytes) -> list[str]:
    return [json.loads(line[6:])["text"] for line in answer.split(b"\n") if line.startswith(b"data: {")]


def test_a_task_streams_the_pieces_of_its_text(client: Make, runtime: ScriptedRuntime) -> None:
    """As events; those joined are its text. A task that answers as a whole says so, and an error before the first piece is a status."""
    runtime.script["hi"] = ("The ", "otters\u2028", "", " sleep.")
    answer = client().post("/v1/tasks/repeat", {"inputs": {"text": "hi"}, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert pieces(answer.content) == ["The ", "otters\u2028", " sleep."]
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert client().refusal("/v1/tasks/count", {"inputs": {"text": "hi"}, "stream": True})[1]["param"] == "stream"
    assert client().refusal("/v1/tasks/repeat", {"inputs": {"text": "hi"}, "stream": 1})[1]["param"] == "stream"
    assert client().refusal("/v1/tasks/repeat", {"inputs": {"words": 1}, "stream": True})[0] == 400
    runtime.script["full"] = (Rejected("The queue is full.", 2.0),)
    full = client().post("/v1/tasks/repeat", {"inputs": {"text": "full"}, "stream": True})
    assert (full.status_code, full.headers["retry-after"]) == (429, "2")
    runtime.script["break"] = ("The ", EngineFailed("The engine failed."))
    broken = client().post("/v1/tasks/repeat", {"inputs": {"text": "break"}, "stream": True})
    assert (broken.status_code, b'"message":"The engine failed."' in broken.content) == (200, True)
    assert broken.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_task_whose_client_has_left_ends(start: Callable[..., HttpServer], runtime: ScriptedRuntime, stream: bool) -> None:
    """While it runs, before and after its first piece; in silence a stream gets comments."""
    gate = threading.Event()
    runtime.script["wait"], runtime.script["some"] = (gate, "The"), ("The", gate, " otters")
    server = start(comment_every=0.02)
    try:
        for text in ("wait", "some"):
            with begun(server.endpoints[0], "/v1/tasks/repeat", {"inputs": {"text": text}, "stream": stream}) as connection:
                found = b""
                while stream and found.count(b": waiting") < 2:
                    found += connection.recv(1 << 16)
                assert (b'"text":"The"' in found) == (stream and text == "some")
                until(lambda text=text: len(runtime.runs) == 1 + (text == "some"))
            assert runtime.runs[-1].wait(30)
    finally:
        gate.set()


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_is_stopped_ends_its_tasks_and_says_so(
    start: Callable[..., HttpServer], runtime: ScriptedRuntime, stream: bool
) -> None:
    gate = threading.Event()
    runtime.script["some"] = ("The", gate, " otters")
    server = start()
    try:
        with begun(server.endpoints[0], "/v1/tasks/repeat", {"inputs": {"text": "some"}, "stream": stream}) as connection:
            until(lambda: len(runtime.runs) == 1)
            found = b""
            while stream and b'"text":"The"' not in found:
                found += connection.recv(1 << 16)
            threading.Thread(target=server.stop, daemon=True).start()
            connection.settimeout(30)
            while part := connection.recv(1 << 16):
                found += part
        assert b'"code":"server_stopped"' in found
        assert found.startswith(b"HTTP/1.1 200" if stream else b"HTTP/1.1 503")
        assert (b"data: [DONE]" in found) == stream
        assert runtime.runs[0].wait(30)
    finally:
        gate.set()
