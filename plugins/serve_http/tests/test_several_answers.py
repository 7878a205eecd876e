"""Several answers of one prompt, whole and streamed; prompts of token ids; errors that come before the first piece."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs import EngineFailed, Rejected
from llmasos_hookspecs.testing import ScriptedRuntime

from .http_clients import chat_body
from .in_process import Client, data

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
Make = Callable[..., Client]


def text_of(path: str, choice: dict[str, Any]) -> str:
    found: str = choice.get("text", "") if path == TEXT else choice.get("delta", choice.get("message", {})).get("content", "")
    return found


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_each_answer_has_its_index_whole_and_streamed(client: Make, runtime: ScriptedRuntime, path: str) -> None:
    """Each has its role, text and reason once; usage counts the prompt once and the tokens of all."""
    runtime.script["hi"] = ("The ", "otters", " sleep.")
    body = {**(chat_body("hi") if path == CHAT else {"prompt": "hi"}), "n": 3, "stream_options": {"include_usage": True}}
    whole = data(client().post(path, body))
    assert [(choice["index"], text_of(path, choice), choice["finish_reason"]) for choice in whole["choices"]] == [
        (place, "The otters sleep.", "stop") for place in range(3)
    ]
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (3, 9)
    *chunks, last = client().chunks(path, body)
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    choices = [chunk["choices"][0] for chunk in chunks]
    for place in range(3):
        own = [choice for choice in choices if choice["index"] == place]
        assert "".join(text_of(path, choice) for choice in own) == "The otters sleep."
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["stop"]
        assert [choice["delta"].get("role") for choice in own if path == CHAT] == (["assistant"] + [None] * (len(own) - 1)) * (path == CHAT)


def test_a_prompt_of_token_ids_is_that_prompt(client: Make, runtime: ScriptedRuntime) -> None:
    for prompt in (list(b"Once"), [list(b"Once")]):
        assert data(client().post(TEXT, {"prompt": prompt}))["choices"][0]["text"] == "Once"
    assert runtime.prompts == ["Once", "Once"]


@pytest.mark.parametrize("stream", [True, False])
def test_what_fails_before_its_first_piece_is_no_200(client: Make, runtime: ScriptedRuntime, stream: bool) -> None:
    """A queue that is full, which the scheduler says after the request was sent, is 429 with the time to come again; an engine is 500."""
    runtime.script["full"] = (Rejected("The queue is full.", 2.5),)
    runtime.script["broken"] = (EngineFailed("The engine failed."),)
    answer = client().post(CHAT, chat_body("full", stream=stream))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert client().post(CHAT, chat_body("broken", stream=stream)).status_code == 500


def test_an_answer_without_text_is_whole(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = ()
    chunks = client().chunks(CHAT, chat_body("hi"))
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks] == ["assistant", None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_that_is_cancelled_before_its_first_piece_is_no_200(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = (threading.Event(),)

    def cancel() -> None:
        while not runtime.answers:
            threading.Event().wait(0.001)
        runtime.answers[0].cancel()

    threading.Thread(target=cancel, daemon=True).start()
    answer = client().post(CHAT, chat_body("hi", stream=True))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "cancelled")
