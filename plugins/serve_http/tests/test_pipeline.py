"""A pipeline served over HTTP: the same tokens as in this process, and core's refusals in OpenAI's form."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llmasos_hookspecs import Endpoint
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

from .http_clients import chat_body, streamed, whole

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """A pipeline and its servers."""
    llmasos = pytest.importorskip("llmasos")
    folder = tmp_path_factory.mktemp("served") / "tiny"
    tiny_checkpoint(folder=folder)
    config = {
        "model": {"source": str(folder)},
        "loader": {"use": "onnx", "threads": 1},
        "server": [{"use": "http", "port": 0, "temperature": 0.0}],
    }
    with llmasos.Pipeline.from_config(config) as pipeline, llmasos.Servers(pipeline) as servers:
        yield pipeline, servers


@pytest.fixture(scope="module")
def served(serving: tuple[Any, Any]) -> tuple[Any, Endpoint]:
    pipeline, servers = serving
    return pipeline.model, servers.endpoints[0]


def test_answers_are_the_models(served: tuple[Any, Endpoint]) -> None:
    """Text, usage, reason and log probabilities, whole and streamed."""
    model, endpoint = served
    messages = [{"role": "user", "content": "天气"}]
    expected = model.generate(messages, max_new_tokens=12, logprobs=2)
    body = chat_body("天气", max_tokens=12, logprobs=True, top_logprobs=2)
    found = whole(endpoint, CHAT, body)
    choice, usage = found["choices"][0], found["usage"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (expected.text, expected.finish_reason)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (expected.prompt_tokens, len(expected.tokens))
    chunks = streamed(endpoint, CHAT, {**body, "stream_options": {"include_usage": True}})
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == expected.text
    assert chunks[-2]["choices"][0]["finish_reason"] == expected.finish_reason
    assert chunks[-1]["usage"]["completion_tokens"] == len(expected.tokens)
    told = [each for chunk in chunks[:-1] for each in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert told == choice["logprobs"]["content"]
    assert [each["logprob"] for each in told] == pytest.approx([each.logprob for each in expected.logprobs[: len(told)]])
    assert all(len(each["top_logprobs"]) == 2 for each in told)


def test_a_completion_has_its_log_probabilities(served: tuple[Any, Endpoint]) -> None:
    model, endpoint = served
    expected = model.generate("otters", max_new_tokens=8, logprobs=1, ignore_eos=True)
    body = {"prompt": "otters", "max_tokens": 8, "logprobs": 1, "ignore_eos": True}
    found = whole(endpoint, "/v1/completions", body)["choices"][0]
    assert found["text"] == expected.text
    assert len(found["logprobs"]["tokens"]) == len(found["logprobs"]["token_logprobs"]) == len(found["logprobs"]["text_offset"])
    chunks = streamed(endpoint, "/v1/completions", body)
    for name in ("tokens", "token_logprobs", "text_offset"):
        joined = [each for chunk in chunks for each in (chunk["choices"][0]["logprobs"] or {name: []})[name]]
        assert joined == found["logprobs"][name]


@pytest.mark.parametrize(("path", "asked"), [(CHAT, chat_body("天气")), ("/v1/completions", {"prompt": "otters"})])
def test_tokens_that_come_too_soon_are_sent_together(serving: tuple[Any, Any], path: str, asked: dict[str, Any]) -> None:
    """As few events as there is time for, or one for each token where that is asked for: the same text. Log probabilities of a token come
    with its own text."""
    body = {**asked, "max_tokens": 60, "temperature": 0, "ignore_eos": True}
    texts, events, logged = [], [], []
    for every in (0.0, 1.0):
        server = HttpServer(serving[1].runtime, Options(port=0, stream_every=every))
        server.start()
        try:
            for logprobs in ({}, {"logprobs": True if path == CHAT else 0}):
                began = time.monotonic()
                chunks = streamed(server.endpoints[0], path, body | logprobs)
                seconds = time.monotonic() - began
                choices = [chunk["choices"][0] for chunk in chunks]
                parts = [choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices]
                texts.append("".join(parts))
                count = sum(map(bool, parts))
                if logprobs:
                    logged.append((count, [choice["logprobs"] for choice in choices]))
                else:
                    events.append((count, seconds))
        finally:
            server.stop()
    assert len(set(texts)) == 1
    (each, _), (together, seconds) = events
    assert together <= 6 + seconds < each, "A few at the beginning, the last, and one a second."
    assert logged[0] == logged[1]
    assert logged[0][0] == each > together


def test_a_schema_is_enforced(served: tuple[Any, Endpoint]) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    found = whole(served[1], CHAT, chat_body("天气", max_tokens=40, response_format=form))["choices"][0]
    assert "".join(found["message"]["content"].split()) == '{"a":1}'


@pytest.mark.parametrize(
    ("more", "status", "param", "code"),
    [
        ({"temperature": -1}, 400, "temperature", "invalid_value"),
        ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
        ({"stop": [1]}, 400, "stop", "invalid_value"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias", "invalid_value"),
        ({"model": "gpt-4o"}, 404, "model", "model_not_found"),
        ({"max_tokens": 10**7}, 400, None, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "x" * 100_000}]}, 400, None, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}, 400, None, "invalid_value"),
    ],
)
def test_cores_refusals_are_openais(served: tuple[Any, Endpoint], more: dict[str, Any], status: int, param: str | None, code: str) -> None:
    for stream in (False, True):
        answer = httpx.post(f"{served[1].url}{CHAT}", json=chat_body("hi", stream=stream) | more, timeout=60)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (status, param, code), error
