"""``/v1/chat/completions``: what reaches the runtime, and what clients get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs import ContextLengthExceeded, EngineFailed, QuotaExceeded, Rejected, RequestError
from llmasos_hookspecs.testing import ScriptedRuntime

from .http_clients import chat_body
from .in_process import Client, data

CHAT = "/v1/chat/completions"
Make = Callable[..., Client]


def test_a_whole_answer_has_openais_form(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = ("The ", "otters", ".")
    found = data(client().post(CHAT, chat_body("hi", model="default")))
    assert found["id"].startswith("chatcmpl-")
    assert isinstance(found["created"], int)
    assert {name: found[name] for name in ("object", "model", "choices", "usage")} == {
        "object": "chat.completion",
        "model": "default",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The otters.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6, "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }  # fmt: skip


@pytest.mark.parametrize("usage", [True, False])
def test_chunks_come_in_openais_order(client: Make, runtime: ScriptedRuntime, usage: bool) -> None:
    """The role first, a null reason until one final empty delta, then the usage without choices, where it was asked for."""
    runtime.script["hi"] = ("The ", "", "otters")
    body = chat_body("hi", **({"stream_options": {"include_usage": True}} if usage else {}))
    *chunks, last = client().chunks(CHAT, body)
    if usage:
        assert all(chunk["usage"] is None for chunk in chunks)
        assert (last["choices"], last["usage"]["total_tokens"]) == ([], 6)
        *chunks, last = [*chunks]
    assert [chunk["choices"][0]["delta"] for chunk in (*chunks, last)] == [
        {"role": "assistant", "content": ""},
        {"content": "The "},
        {"content": "otters"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in (*chunks, last)] == [None, None, None, "stop"]
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in (*chunks, last)}) == 1
    assert usage or all("usage" not in chunk for chunk in (*chunks, last))


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat"])
def test_an_event_is_one_line_for_readers_of_text_too(client: Make, runtime: ScriptedRuntime, path: str) -> None:
    """Line ends of Unicode within an answer are escaped, because ``str.splitlines``, and so httpx's ``iter_lines``, cuts at them."""
    runtime.script["hi"] = ("a\x0b\x1c\x85\u2028\u2029b",)
    asked = {"/v1/completions": {"prompt": "hi"}, "/v1/responses": {"input": "hi"}}.get(path, chat_body("hi", max_tokens=9))
    text = client().post(path, {"stream": True, **asked}).text
    assert [line for line in text.splitlines() if line] == [line for line in text.split("\n") if line]
    assert r"a\u000b\u001c\u0085\u2028\u2029b" in text


def test_what_is_asked_reaches_the_runtime(client: Make, runtime: ScriptedRuntime) -> None:
    """Under the runtime's names; without a temperature OpenAI's default holds, or the option's."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    data(
        client().post(
            CHAT,
            chat_body(
                "hi", max_tokens=7, top_p=0.5, top_k=3, stop=["x"], seed=1, logit_bias={"5": 2}, user="u", metadata={"a": 1}, store=True,
                service_tier="auto", parallel_tool_calls=False, n=1, tools=[], tool_choice="none", logprobs=True, top_logprobs=2,
                chat_template_kwargs={"enable_thinking": False}, response_format={"type": "json_schema", "json_schema": {"schema": schema}},
                some_field_of_next_year={"x": 1},
            ),
        )
    )  # fmt: skip
    assert runtime.samplings == [
        {
            "temperature": 1.0, "max_new_tokens": 7, "top_p": 0.5, "top_k": 3, "stop": ["x"], "seed": 1, "logit_bias": {"5": 2},
            "logprobs": 2, "template_arguments": {"enable_thinking": False}, "schema": schema,
        }
    ]  # fmt: skip
    data(client(temperature=0.0).post(CHAT, chat_body("hi", max_tokens=3, max_completion_tokens=4)))
    assert runtime.samplings[-1] == {"temperature": 0.0, "max_new_tokens": 4}
    data(client().post(CHAT, chat_body("hi", temperature=0, response_format={"type": "json_object"})))
    assert runtime.samplings[-1] == {"temperature": 0, "schema": {"type": "object"}, "max_new_tokens": "context"}


def test_nulls_are_fields_that_were_left_out(client: Make, runtime: ScriptedRuntime) -> None:
    nulls = ("model", "temperature", "n", "tools", "stop", "seed", "logprobs", "top_logprobs", "stream", "stream_options", "max_tokens")
    body = chat_body("hi", response_format=None, **dict.fromkeys(nulls))
    body["messages"] = [{"role": "assistant", "content": None, "refusal": None, "tool_calls": None, "name": "a"}, *body["messages"]]
    assert data(client().post(CHAT, body))["choices"][0]["message"]["content"] == "hi"
    assert runtime.samplings == [{"temperature": 1.0, "max_new_tokens": "context"}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0), ("n", True), ("n", 129), ("n", "2"), ("tool_choice", "required"),
        ("functions", [{"name": "f"}]), ("audio", {}), ("modalities", ["text", "audio"]), ("reasoning_effort", "high"),
        ("stop_token_ids", [1]), ("logprobs", 1), ("top_logprobs", 21), ("top_logprobs", 2), ("stream", "yes"), ("stream_options", 3),
        ("response_format", {"type": "xml"}), ("response_format", {"type": "json_schema"}), ("response_format", "json"), ("model", 7),
        ("messages", []), ("messages", "hi"), ("messages", None), ("messages[0]", ["hi"]),
        ("messages[0]", [{"role": "function", "content": "x"}]),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_if_ignored_is_refused_by_name(client: Make, runtime: ScriptedRuntime, field: str, value: Any) -> None:
    body = chat_body("hi") | {field.partition("[")[0]: value}
    status, error = client().refusal(CHAT, body)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", field)
    assert field.partition("[")[0] in error["message"]
    assert runtime.prompts == []


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (ContextLengthExceeded("Too long."), 400, "context_length_exceeded", None),
        (RequestError("max_new_tokens is 0.", "max_new_tokens"), 400, "invalid_value", "max_tokens"),
        (RequestError("temperature is 9.", "temperature"), 400, "invalid_value", "temperature"),
        (Rejected("The queue is full.", 2.2), 429, "rate_limit_exceeded", None),
        (Rejected("It can never fit."), 400, "request_too_large", None),
        (QuotaExceeded("Nothing is left.", 60.0), 429, "insufficient_quota", None),
        (EngineFailed("The engine failed."), 500, "server_error", None),
        (KeyError("secret"), 500, "server_error", None),
    ],
)
def test_errors_have_openais_form_and_status(
    client: Make, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str, param: str | None
) -> None:
    """Whole and streamed alike, while nothing was sent; an error that was not meant tells nothing of the server's inside."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(runtime, "generate", fail)
    for stream in (False, True):
        answer = client().post(CHAT, chat_body("hi", stream=stream))
        found = answer.json()["error"]
        assert (answer.status_code, found["code"], found["param"]) == (status, code, param)
        assert "secret" not in found["message"]
        assert answer.headers.get("retry-after") == {"rate_limit_exceeded": "3", "insufficient_quota": "60"}.get(code)


def test_an_unknown_model_is_not_found(client: Make) -> None:
    status, error = client().refusal(CHAT, chat_body("hi", model="gpt-4o"))
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


def test_an_error_in_the_middle_of_a_stream_is_an_event_and_of_a_whole_answer_a_status(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = ("The ", EngineFailed("The engine failed; send it again."))
    with pytest.raises(RuntimeError, match="The engine failed"):
        client().chunks(CHAT, chat_body("hi"))
    assert client().post(CHAT, chat_body("hi", stream=True)).text.endswith("data: [DONE]\n\n")
    assert client().refusal(CHAT, chat_body("hi"))[0] == 500


def test_the_system_is_named_as_templates_name_it(client: Make, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    generate = runtime.generate
    monkeypatch.setattr(
        runtime, "generate", lambda principal, prompt, **more: (seen.append(prompt), generate(principal, prompt, **more))[1]
    )
    parts = [{"type": "text", "text": "hi"}]
    body = {"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "name": "ann", "content": parts}]}
    data(client().post(CHAT, body))
    assert seen == [[{"role": "system", "content": "Be kind."}, {"role": "user", "name": "ann", "content": parts}]]
