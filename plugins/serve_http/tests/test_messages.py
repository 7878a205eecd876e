"""``/v1/messages``: Anthropic's form of a request, an answer and an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs import EngineFailed, FinishEvent, RequestError, TextEvent, UsageEvent
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.anthropic.rendering import MessageRendering
from llmasos_serve_http.asked import Collected

from .in_process import Client, data

PATH = "/v1/messages"
Make = Callable[..., Client]


def body(text: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": text}], **more}


def events(client: Client, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, each of which names its type twice."""
    answer = client.post(PATH, {**asked, "stream": True})
    assert answer.status_code == 200, answer.text
    found = []
    for block in answer.text.split("\n\n")[:-1]:
        name, _, content = block.partition("\n")
        found.append(json.loads(content.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_whole_answer_has_anthropics_form(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = ("The ", "otters")
    found = data(client().post(PATH, body(temperature=0.5, top_k=3, stop_sequences=["x"], metadata={"user_id": "u"}, tools=[])))
    assert found.pop("id").startswith("msg_")
    assert found == {
        "type": "message",
        "role": "assistant",
        "model": "default",
        "content": [{"type": "text", "text": "The otters"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1, "output_tokens": 2},
    }
    assert runtime.samplings == [{"temperature": 0.5, "top_k": 3, "stop": ["x"], "max_new_tokens": 9}]
    data(client().post(PATH, body()))
    assert runtime.samplings[-1] == {"temperature": 1.0, "max_new_tokens": 9}


def test_events_come_in_anthropics_order(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = ("The ", "", "otters")
    found = events(client(), body())
    assert [event["type"] for event in found] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    assert [event["delta"]["text"] for event in found if event["type"] == "content_block_delta"] == ["The ", "otters"]
    assert (found[0]["message"]["content"], found[0]["message"]["stop_reason"]) == ([], None)
    assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == 3


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        (FinishEvent(reason="stop"), "end_turn"), (FinishEvent(reason="stop", stop="END"), "stop_sequence"),
        (FinishEvent(reason="length"), "max_tokens"), (FinishEvent(reason="blocked"), "refusal"),
    ],
)  # fmt: skip
def test_the_end_has_anthropics_reason(finish: FinishEvent, reason: str) -> None:
    usage = UsageEvent(prompt_tokens=1, cached_tokens=0, generated_tokens=1)
    whole = MessageRendering("1").whole("m", Collected(pieces=(TextEvent(text="x"),), usage=usage, finishes=(finish,)))
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, finish.stop)
    assert f'"stop_reason":"{reason}"'.encode() in MessageRendering("1").end(usage, [finish])


def test_the_system_and_blocks_become_messages(client: Make, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    generate = runtime.generate
    monkeypatch.setattr(
        runtime, "generate", lambda principal, prompt, **more: (seen.append(prompt), generate(principal, prompt, **more))[1]
    )
    blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    data(client().post(PATH, body(blocks, system=[{"type": "text", "text": "Be kind."}])))
    assert seen == [[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "one\ntwo"}]]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"max_tokens": None}, "max_tokens"), ({"messages": []}, "messages"), ({"messages": [{"role": "system", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "base64"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://x"}}]}]}, "fetched"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image"}]}]}, "neither text nor image"),
        ({"tools": [{"type": "web_search_20250305", "name": "f"}]}, "tools"),
        ({"thinking": {"type": "often"}}, "thinking"), ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"stream": "x"}, "stream"), ({"system": 7}, "system"),
    ],
)  # fmt: skip
def test_refusals_have_anthropics_form(client: Make, runtime: ScriptedRuntime, more: dict[str, Any], word: str) -> None:
    answer = client().post(PATH, body() | more)
    found = answer.json()
    assert (answer.status_code, found["type"], found["error"]["type"]) == (400, "error", "invalid_request_error")
    assert word in found["error"]["message"]
    assert runtime.prompts == []


def test_errors_have_anthropics_types(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["break"] = ("The ", EngineFailed("The engine failed."))
    runtime.script["bad"] = (RequestError("max_new_tokens is 0.", "max_new_tokens"),)
    assert events(client(), body("break"))[-1] == {"type": "error", "error": {"type": "api_error", "message": "The engine failed."}}
    assert client().post(PATH, body("bad")).json()["error"]["message"].startswith("max_tokens: ")
    for headers, more, status, kind in (
        ({"x_api_key": "wrong"}, {}, 401, "authentication_error"),
        ({}, {"model": "claude"}, 404, "not_found_error"),
    ):
        answer = client().post(PATH, body(**more), **headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


def test_tokens_are_counted(client: Make, monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime) -> None:
    monkeypatch.setattr(runtime, "count_tokens", lambda _, prompt, **__: len(prompt[-1]["content"]))
    asked = {"messages": [{"role": "user", "content": "seven!!"}], "model": "default"}
    assert data(client().post(f"{PATH}/count_tokens", asked)) == {"input_tokens": 7}
