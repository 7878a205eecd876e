"""``return_progress``: a stream that tells how much of the prompt is computed, in llama.cpp's form."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from llmasos_hookspecs import Endpoint, EngineFailed, PromptProgress
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_serve_http.listening import HttpServer

from .http_clients import begun, chat_body, events, streamed, whole
from .in_process import Client, data

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODIES = {CHAT: chat_body("hi"), COMPLETIONS: {"prompt": "hi"}}


def computed(processed: int) -> PromptProgress:
    return PromptProgress(total=100, cached=10, processed=processed, seconds=processed / 100)


def told(chunks: list[dict[str, Any]]) -> list[dict[str, int]]:
    return [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]


@pytest.mark.parametrize("path", BODIES)
def test_what_is_computed_is_told_before_the_first_piece(start: Callable[..., HttpServer], runtime: ScriptedRuntime, path: str) -> None:
    """Each state once, however long it lasts, the last one before the first piece; as chunks whose text is empty."""
    gates = [threading.Event() for _ in range(3)]
    runtime.script["hi"] = [computed(10), gates[0], computed(40), gates[1], computed(70), gates[2], computed(100), "Otters"]
    endpoint = start().endpoints[0]
    chunks: list[dict[str, Any]] = []
    with httpx.stream(
        "POST", f"{endpoint.url}{path}", json={**BODIES[path], "stream": True, "return_progress": True}, timeout=120
    ) as answer:
        for chunk in events(answer.iter_lines()):
            chunks.append(chunk)
            if len(chunks) <= len(gates):
                gates[len(chunks) - 1].set()
    assert told(chunks) == [{"total": 100, "cache": 10, "processed": at, "time_ms": at * 10} for at in (10, 40, 70, 100)]
    assert told(chunks[:4]) == told(chunks)
    assert all(chunk["model"] == "default" and chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:4])
    texts = [choice.get("text", choice.get("delta", {}).get("content", "")) for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == "Otters"


@pytest.mark.parametrize("path", BODIES)
def test_nobody_is_told_who_did_not_ask(client: Callable[..., Client], runtime: ScriptedRuntime, path: str) -> None:
    """Nor is an answer that is not streamed another one; a value that is neither true nor false is refused."""
    runtime.script["hi"] = [computed(100), "Otters"]
    assert not told(client().chunks(path, BODIES[path]))
    assert not told(client().chunks(path, {**BODIES[path], "return_progress": False}))
    asked, plain = (data(client().post(path, BODIES[path] | more)) for more in ({"return_progress": True}, {}))
    assert asked["choices"] == plain["choices"]
    status, error = client().refusal(path, {**BODIES[path], "return_progress": "yes"})
    assert (status, error["param"]) == (400, "return_progress")


def test_a_request_that_is_queued_tells_nothing_and_may_still_be_refused(
    start: Callable[..., HttpServer], runtime: ScriptedRuntime
) -> None:
    """Its error is the answer's status; once some of the prompt is computed, it is an event."""
    gate = threading.Event()
    runtime.script["hi"] = [gate, EngineFailed("The engine failed; send it again.")]
    endpoint = start().endpoints[0]
    body = chat_body("hi", stream=True, return_progress=True)
    threading.Timer(0.6, gate.set).start()  # longer than two looks at the progress
    assert httpx.post(f"{endpoint.url}{CHAT}", json=body, timeout=120).status_code == 500
    runtime.script["hi"] = [computed(10), threading.Event(), "never"]
    with begun(endpoint, CHAT, body) as connection:
        assert b'"processed":10' in connection.recv(1 << 16) + connection.recv(1 << 16)


def test_a_stream_whose_prompt_takes_long_gets_comments_too(start: Callable[..., HttpServer], runtime: ScriptedRuntime) -> None:
    """Where nothing new is computed meanwhile."""
    runtime.script["hi"] = [computed(10), threading.Event(), "never"]
    endpoint = start(comment_every=0.05).endpoints[0]
    with begun(endpoint, CHAT, chat_body("hi", stream=True, return_progress=True)) as connection:
        found = b""
        while found.count(b": waiting\n\n") < 3:
            found += connection.recv(1 << 16)
    assert found.count(b"prompt_progress") == 1


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A tiny model that computes prompts in steps of 16 tokens."""
    llmasos = pytest.importorskip("llmasos")
    folder = tmp_path_factory.mktemp("progress") / "tiny"
    tiny_checkpoint(folder=folder)
    config = {
        "model": {"source": str(folder)},
        "loader": {"use": "onnx", "threads": 1},
        "scheduler": {"use": "fifo", "step_tokens": 16},
        "server": [{"use": "http", "port": 0}],
    }
    with llmasos.Pipeline.from_config(config) as pipeline, llmasos.Servers(pipeline) as servers:
        yield servers.endpoints[0]


def test_totals_are_those_of_the_usage_with_the_prefix_cache_too(served: Endpoint) -> None:
    """The last chunk before the text says that all is computed, in however many steps."""
    body = {"prompt": "The otters sleep in the river. " * 3, "max_tokens": 1, "return_progress": True}
    for hit in (False, True):
        *chunks, last = streamed(served, COMPLETIONS, {**body, "stream_options": {"include_usage": True}})
        usage, progress = last["usage"], told(chunks)[-1]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert (progress["total"], progress["processed"], progress["cache"]) == (usage["prompt_tokens"], usage["prompt_tokens"], cached)
        assert (cached > 16) == hit


def test_several_prompts_are_told_together(served: Endpoint) -> None:
    body = {"prompt": ["Otters " * 9, "Rivers " * 5], "max_tokens": 1}
    total = whole(served, COMPLETIONS, body)["usage"]["prompt_tokens"]
    progress = told(streamed(served, COMPLETIONS, {**body, "return_progress": True}))
    assert progress[-1]["processed"] <= progress[-1]["total"] <= total
