"""Ollama's API: lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs import EngineFailed
from llmasos_hookspecs.testing import ScriptedRuntime

from .http_clients import chat_body
from .in_process import Client, data

Make = Callable[..., Client]
COUNTS = {"prompt_eval_count": 3, "eval_count": 2}


def lines(client: Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post(path, body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.content.endswith(b"\n")
    return [json.loads(line) for line in answer.content.split(b"\n")[:-1]]


@pytest.mark.parametrize(
    ("path", "body", "text_of"),
    [
        ("/api/chat", chat_body("hi"), lambda line: line["message"]["content"]),
        ("/api/generate", {"prompt": "hi"}, lambda line: line["response"]),
        ("/api/generate", {"prompt": "hi", "raw": True}, lambda line: line["response"]),
    ],
)
def test_answers_stream_unless_they_are_asked_whole(
    client: Make, runtime: ScriptedRuntime, path: str, body: dict[str, Any], text_of: Callable[[dict[str, Any]], str]
) -> None:
    runtime.script["hi"] = ("The ", "otters")
    *pieces, last = lines(client(), path, {"model": "default:latest", **body})
    assert [text_of(line) for line in (*pieces, last)] == ["The ", "otters", ""]
    assert [line["done"] for line in (*pieces, last)] == [False, False, True]
    whole = data(client().post(path, {**body, "stream": False}))
    assert text_of(whole) == "The otters"
    for end in (last, whole):
        assert (end["done"], end["done_reason"], end["model"]) == (True, "stop", "default")
        assert {name: end[name] for name in COUNTS} == COUNTS
        assert end["total_duration"] >= end["prompt_eval_duration"] + end["eval_duration"] >= 0


def test_what_is_asked_reaches_the_runtime(client: Make, runtime: ScriptedRuntime) -> None:
    options = {
        "temperature": 0.5,
        "top_k": 3,
        "num_predict": 7,
        "repeat_penalty": 1.2,
        "seed": -1,
        "num_ctx": 4096,
        "mirostat": 0,
        "stop": None,
    }
    lines(client(), "/api/chat", chat_body("hi", options=options, format="json", keep_alive="5m", think=False))
    assert runtime.samplings[-1] == {
        "temperature": 0.5, "top_k": 3, "max_new_tokens": 7, "repetition_penalty": 1.2, "schema": {"type": "object"},
        "reasoning": False,
    }  # fmt: skip
    lines(client(), "/api/generate", {"prompt": "hi", "options": {"num_predict": -1}, "format": {"type": "string"}})
    assert runtime.samplings[-1] == {"temperature": 0.8, "schema": {"type": "string"}, "max_new_tokens": "context"}


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/api/chat", {}, "messages"), ("/api/chat", chat_body("hi", think="high"), "think"),
        ("/api/chat", chat_body("hi", format="xml"), "format"),
        ("/api/chat", chat_body("hi", options=[]), "options"), ("/api/chat", chat_body("hi", options={"mirostat": 2}), "options.mirostat"),
        ("/api/chat", {"messages": [{"role": "user", "images": "x"}]}, "messages[0].images"), ("/api/generate", {}, "prompt"),
        ("/api/chat", {"messages": [{"role": "user", "images": [7]}]}, "messages[0].images"),
        ("/api/generate", {"prompt": "a", "raw": True, "images": ["x"]}, "images"),
        ("/api/generate", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("/api/generate", {"prompt": "a", "raw": True, "system": "b"}, "system"),
        ("/api/generate", {"prompt": "a", "stream": 1}, "stream"),
    ],
)  # fmt: skip
def test_refusals_are_sentences(client: Make, runtime: ScriptedRuntime, path: str, body: dict[str, Any], word: str) -> None:
    answer = client().post(path, body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert word in answer.json()["error"]
    assert runtime.prompts == []


def test_an_error_in_the_middle_is_a_line(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = ("The ", EngineFailed("The engine failed."))
    assert lines(client(), "/api/chat", chat_body("hi"))[-1] == {"error": "The engine failed."}
    assert client().post("/api/chat", chat_body("hi", stream=False)).status_code == 500


def test_models_are_listed_and_shown(client: Make) -> None:
    for path in ("/api/tags", "/api/ps"):
        assert [model["model"] for model in data(client().ask("GET", path))["models"]] == ["default"]
    shown = data(client().post("/api/show", {"model": "default:latest"}))
    assert (shown["capabilities"], shown["model_info"]) == (["completion", "tools"], {"general.context_length": 2048})
    assert client().post("/api/show", {"name": "default"}).status_code == 200
    assert client().post("/api/show", {"model": "llama3"}).status_code == 404
    assert data(client().ask("GET", "/api/version"))["version"]
