"""Reasoning and calls of tools in each protocol: what reaches the runtime, and what clients get, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmasos_hookspecs import EngineFailed, FinishEvent, PartEvent, ReasoningEvent, ToolCallEvent
from llmasos_hookspecs.testing import ScriptedRuntime

from .http_clients import chat_body
from .in_process import Client, data

Make = Callable[..., Client]
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
PARIS, STOP = '{"city": "Paris \\u00e9"}', "{}"


def call(index: int, name: str, arguments: str, size: int) -> list[PartEvent]:
    """A call whose arguments come in pieces of ``size`` characters."""
    pieces = [arguments[place : place + size] for place in range(0, len(arguments), size)]
    first = ToolCallEvent(call=index, id=f"call0000{index}", name=name, arguments=pieces[0])
    return [first, *(ToolCallEvent(call=index, arguments=piece) for piece in pieces[1:])]


def script(size: int, finish: str = "stop") -> list[Any]:
    """Reasoning, text, and two calls."""
    text = [ReasoningEvent(text="Why"), ReasoningEvent(text="?"), "I ", "look."]
    return [*text, *call(0, "weather", PARIS, size), *call(1, "stop", STOP, size), FinishEvent(reason=finish)]


def sse(client: Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The data of a stream's events, each of which is named by its type."""
    answer = client.post(path, {**body, "stream": True})
    assert answer.status_code == 200, answer.text
    blocks = answer.text.removesuffix("\n\n").split("\n\n")
    found = [json.loads(block.partition("\ndata: ")[2]) for block in blocks]
    assert [block.partition("\n")[0] for block in blocks] == [f"event: {each['type']}" for each in found]
    return found


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_openais_chunks_join_to_the_whole_answer(client: Make, runtime: ScriptedRuntime, size: int) -> None:
    """Each call has its own index; its id, type and name come once, and its arguments are neither lost nor doubled."""
    runtime.script["hi"] = script(size)
    whole = data(client().post(CHAT, chat_body("hi", tools=TOOLS)))
    message = whole["choices"][0]["message"]
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert (message["content"], message["reasoning_content"], message["reasoning"]) == ("I look.", "Why?", "Why?")
    assert message["tool_calls"] == [
        {"id": "call00000", "type": "function", "function": {"name": "weather", "arguments": PARIS}},
        {"id": "call00001", "type": "function", "function": {"name": "stop", "arguments": STOP}},
    ]
    chunks = client().chunks(CHAT, chat_body("hi", tools=TOOLS))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["tool_calls"]
    calls: list[dict[str, Any]] = []
    for piece in (each for delta in deltas for each in delta.get("tool_calls", [])):
        if piece["index"] == len(calls):
            calls.append({name: piece[name] for name in ("id", "type")} | {"function": dict(piece["function"])})
        else:
            assert set(piece) == {"index", "function"}
            assert set(piece["function"]) == {"arguments"}
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    assert calls == message["tool_calls"]
    for name in ("content", "reasoning_content", "reasoning"):
        assert "".join(delta.get(name, "") for delta in deltas) == message[name]


def test_each_of_several_answers_has_its_own_calls(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = script(3)
    whole = data(client().post(CHAT, chat_body("hi", tools=TOOLS, n=2)))
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["tool_calls"] * 2
    arguments = [[each["function"]["arguments"] for each in choice["message"]["tool_calls"]] for choice in whole["choices"]]
    assert arguments == [[PARIS, STOP]] * 2
    choices = [chunk["choices"][0] for chunk in client().chunks(CHAT, chat_body("hi", tools=TOOLS, n=2))]
    for place in range(2):
        pieces = [each for choice in choices if choice["index"] == place for each in choice["delta"].get("tool_calls", [])]
        assert ["".join(each["function"]["arguments"] for each in pieces if each["index"] == call) for call in range(2)] == [PARIS, STOP]
        assert [choice["finish_reason"] for choice in choices if choice["index"] == place][-1] == "tool_calls"


def test_a_call_without_a_text_has_null_content(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = call(0, "stop", STOP, 9)
    message = data(client().post(CHAT, chat_body("hi", tools=TOOLS)))["choices"][0]["message"]
    assert message["content"] is None
    assert "reasoning_content" not in message


def test_an_answer_that_was_cut_within_a_call_says_so(client: Make, runtime: ScriptedRuntime) -> None:
    """OpenAI's clients get the arguments so far; where arguments are an object there is none."""
    runtime.script["hi"] = [*call(0, "weather", PARIS[:9], 3), FinishEvent(reason="length")]
    choice = data(client().post(CHAT, chat_body("hi", tools=TOOLS)))["choices"][0]
    assert (choice["finish_reason"], choice["message"]["tool_calls"][0]["function"]["arguments"]) == ("length", PARIS[:9])
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    found = data(client().post(MESSAGES, body))
    assert (found["stop_reason"], found["content"][0]["input"]) == ("max_tokens", {})
    found = data(client().post("/api/chat", chat_body("hi", stream=False)))
    assert (found["done_reason"], found["message"]) == ("length", {"role": "assistant", "content": ""})
    found = data(client().post(RESPONSES, {"input": "hi"}))
    assert (found["status"], found["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (found["output"][0]["status"], found["output"][0]["arguments"]) == ("incomplete", PARIS[:9])


@pytest.mark.parametrize("size", [1, 7, 100])
def test_anthropics_events_join_to_the_whole_answer(client: Make, runtime: ScriptedRuntime, size: int) -> None:
    """Each block is begun, continued and stopped under a number of its own."""
    runtime.script["hi"] = script(size)
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "weather", "input_schema": SCHEMA}]}
    whole = data(client().post(MESSAGES, body))
    assert whole["stop_reason"] == "tool_use"
    assert whole["content"] == [
        {"type": "thinking", "thinking": "Why?", "signature": ""},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call00000", "name": "weather", "input": json.loads(PARIS)},
        {"type": "tool_use", "id": "call00001", "name": "stop", "input": {}},
    ]
    events = sse(client(), MESSAGES, body)
    blocks: list[dict[str, Any]] = []
    texts: list[str] = []
    stopped = 0
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks) == stopped
            blocks.append(event["content_block"])
            texts.append("")
        elif event["type"] == "content_block_delta":
            assert event["index"] == stopped
            texts[-1] += next(event["delta"][name] for name in ("text", "thinking", "partial_json") if name in event["delta"])
        elif event["type"] == "content_block_stop":
            assert event["index"] == stopped
            stopped += 1
    assert texts == ["Why?", "I look.", PARIS, STOP]
    assert stopped == 4
    assert [{**block, **more} for block, more in zip(blocks, whole["content"], strict=True)] == whole["content"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("size", [1, 100])
def test_ollama_has_calls_whole(client: Make, runtime: ScriptedRuntime, size: int) -> None:
    """With arguments as objects, in the order of the answer."""
    runtime.script["hi"] = script(size)
    whole = data(client().post("/api/chat", chat_body("hi", tools=TOOLS, stream=False)))["message"]
    assert (whole["content"], whole["thinking"]) == ("I look.", "Why?")
    functions = [each["function"] for each in whole["tool_calls"]]
    assert functions == [{"name": "weather", "arguments": json.loads(PARIS)}, {"name": "stop", "arguments": {}}]
    answer = client().post("/api/chat", chat_body("hi", tools=TOOLS))
    lines = [json.loads(line) for line in answer.content.splitlines()]
    messages = [line["message"] for line in lines]
    assert "".join(message["content"] for message in messages) == whole["content"]
    assert "".join(message.get("thinking", "") for message in messages) == whole["thinking"]
    assert [each for message in messages for each in message.get("tool_calls", [])] == whole["tool_calls"]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    generated = data(client().post("/api/generate", {"prompt": "hi", "stream": False}))
    assert (generated["response"], generated["thinking"]) == ("I look.", "Why?")


@pytest.mark.parametrize("size", [1, 100])
def test_the_events_of_a_response_join_to_the_whole_one(client: Make, runtime: ScriptedRuntime, size: int) -> None:
    """Numbered without a gap; every item is added, continued and done, and the last event has all of it."""
    runtime.script["hi"] = script(size)
    tools = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}]
    body = {"input": "hi", "tools": tools, "instructions": "Be kind.", "metadata": {"a": "b"}}
    whole = data(client().post(RESPONSES, body))
    assert (whole["object"], whole["status"], whole["tools"], whole["metadata"]) == ("response", "completed", tools, {"a": "b"})
    assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    reasoning, message, *calls = whole["output"]
    assert (reasoning["type"], reasoning["content"]) == ("reasoning", [{"type": "reasoning_text", "text": "Why?"}])
    assert (message["role"], message["content"][0]["text"]) == ("assistant", "I look.")
    assert [(each["call_id"], each["name"], each["arguments"]) for each in calls] == [
        ("call00000", "weather", PARIS),
        ("call00001", "stop", STOP),
    ]
    events = sse(client(), RESPONSES, body)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert (events[0]["response"]["output"], events[0]["response"]["status"]) == ([], "in_progress")
    last = events[-1]
    assert last["type"] == "response.completed"
    same = {"id": whole["id"], "created_at": whole["created_at"]}
    numbered = zip(whole["output"], last["response"]["output"], strict=True)
    assert last["response"] | same | {"output": [{**streamed, "id": each["id"]} for each, streamed in numbered]} == whole
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == last["response"]["output"]
    texts = dict.fromkeys(range(4), "")
    for event in events:
        if event["type"].endswith(".delta"):
            texts[event["output_index"]] += event["delta"]
            assert event["item_id"] == done[event["output_index"]]["id"]
    assert list(texts.values()) == ["Why?", "I look.", PARIS, STOP]


def test_what_is_asked_of_tools_reaches_the_runtime_in_one_form(client: Make, runtime: ScriptedRuntime) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    expected = {"tools": TOOLS, "tool_choice": named, "parallel_tool_calls": False, "reasoning": False}
    said = {"tools": TOOLS, "tool_choice": named, "parallel_tool_calls": False}
    data(client().post(CHAT, chat_body("hi", **said, reasoning_effort="none")))
    assert runtime.samplings[-1] == {"temperature": 1.0, "max_new_tokens": "context", **expected}
    tools: list[Any] = [{"name": "weather", "input_schema": SCHEMA, "description": None}]
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "tools": tools, "thinking": {"type": "disabled"}}
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    data(client().post(MESSAGES, {**body, "tool_choice": choice}))
    assert runtime.samplings[-1] == {"temperature": 1.0, "max_new_tokens": 9, **expected}
    for kind, mode in (("any", "required"), ("auto", "auto"), ("none", "none")):
        data(client().post(MESSAGES, {**body, "tool_choice": {"type": kind}}))
        assert runtime.samplings[-1]["tool_choice"] == mode
    data(client().post(MESSAGES, {**body, "thinking": {"type": "enabled", "budget_tokens": 1024}}))
    assert runtime.samplings[-1]["reasoning"] is True
    flat = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    data(client().post("/v1/responses", {"input": "hi", "tools": [{"type": "function", "name": "weather"}], "tool_choice": flat}))
    deep = {"mode": "auto", "tools": [{"type": "function", "name": "weather", "function": {"name": "weather"}}]}
    assert runtime.samplings[-1]["tool_choice"] == {"type": "allowed_tools", "allowed_tools": deep}
    data(client().post("/api/chat", chat_body("hi", tools=TOOLS, think=True, stream=False)))
    assert runtime.samplings[-1] == {"temperature": 0.8, "max_new_tokens": "context", "tools": TOOLS, "reasoning": True}
    flat = [{"type": "function", "name": "weather", "parameters": SCHEMA}]
    more = {"parallel_tool_calls": False, "reasoning": {"effort": "none"}, "max_output_tokens": 7}
    data(client().post(RESPONSES, {"input": "hi", "tools": flat, "tool_choice": {"type": "function", "name": "weather"}, **more}))
    assert runtime.samplings[-1] == {"temperature": 1.0, "max_new_tokens": 7, **expected}
    form = {"type": "json_schema", "name": "x", "schema": SCHEMA}
    data(client().post(RESPONSES, {"input": "hi", "text": {"format": form}, "tool_choice": "auto", "tools": []}))
    assert runtime.samplings[-1] == {"temperature": 1.0, "max_new_tokens": "context", "schema": SCHEMA}


def test_a_conversation_with_calls_is_the_same_in_each_protocol(client: Make, runtime: ScriptedRuntime) -> None:
    """Null content, names and ids are kept; results become messages of the role tool."""
    runtime.script["rain"] = ("Take a coat.",)
    function = {"name": "weather", "arguments": {"city": "Paris"}}
    made = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    user, result = {"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    openai_call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": json.dumps(function["arguments"])}}
    told = {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [openai_call], "name": None, "refusal": None}
    data(client().post(CHAT, {"messages": [user, told, {**result, "name": "weather"}]}))
    assert runtime.given[-1] == [user, {**made, "tool_calls": [openai_call]}, {**result, "name": "weather"}]
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": function["arguments"]},
    ]
    answer = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "rain"}]}]}
    data(client().post(MESSAGES, {"max_tokens": 9, "messages": [user, {"role": "assistant", "content": blocks}, answer]}))
    assert runtime.given[-1] == [user, made, result]
    answer["content"].append({"type": "text", "text": "So?"})
    data(client().post(MESSAGES, {"max_tokens": 9, "messages": [user, {"role": "assistant", "content": blocks}, answer]}))
    assert runtime.given[-1] == [user, made, result, {"role": "user", "content": "So?"}]
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": openai_call["function"]["arguments"]},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    ]
    data(client().post(RESPONSES, {"input": items, "instructions": "Be kind."}))
    assert runtime.given[-1] == [{"role": "system", "content": "Be kind."}, user, {**made, "tool_calls": [openai_call]}, result]
    data(client().post("/api/chat", chat_body("hi", stream=False) | {"messages": [user, {**made, "content": ""}, result]}))
    assert runtime.given[-1] == [user, made, result]


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        ("/v1/completions", {"prompt": "a", "tools": TOOLS}, "tools"),
        (CHAT, {"messages": [{"role": "user", "content": "a"}], "tool_choice": "required"}, "tool_choice"),
        (RESPONSES, {"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
        (RESPONSES, {"input": "a", "background": True}, "background"), (RESPONSES, {"input": "a", "n": 2}, "n"),
        (RESPONSES, {"input": "a", "conversation": "c"}, "conversation"),
        (RESPONSES, {"input": "a", "truncation": "auto"}, "truncation"), (RESPONSES, {"input": []}, "input"), (RESPONSES, {}, "input"),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content"),
        (RESPONSES, {"input": "a", "tools": [{"type": "web_search"}]}, "tools"), (RESPONSES, {"input": "a", "tools": "f"}, "tools"),
        (RESPONSES, {"input": "a", "tool_choice": "required"}, "tool_choice"),
        (RESPONSES, {"input": "a", "reasoning": 1}, "reasoning.effort"),
        (RESPONSES, {"input": "a", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        (RESPONSES, {"input": "a", "text": {"format": {"type": "xml"}}}, "text.format"),
        (RESPONSES, {"input": "a", "text": 3}, "text.format"),
        (RESPONSES, {"input": "a", "instructions": 7}, "instructions"),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_if_ignored_is_refused(
    client: Make, runtime: ScriptedRuntime, path: str, more: dict[str, Any], param: str
) -> None:
    status, error = client().refusal(path, more)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert runtime.prompts == []


def test_previous_responses_are_refused_in_a_clear_sentence(client: Make) -> None:
    _, error = client().refusal(RESPONSES, {"input": "a", "previous_response_id": "resp_1"})
    assert error["message"] == (
        "previous_response_id is not supported, because this server keeps no responses; send the whole conversation in input."
    )
    assert data(client().post(RESPONSES, {"input": "a", "previous_response_id": None, "store": True}))["store"] is False


@pytest.mark.parametrize("content", ["tool_use", "video", "tool_result"])
def test_blocks_that_a_role_does_not_have_are_refused(client: Make, content: str) -> None:
    role = "assistant" if content == "tool_result" else "user"
    answer = client().post(MESSAGES, {"max_tokens": 9, "messages": [{"role": role, "content": [{"type": content}]}]})
    assert (answer.status_code, "neither text nor image" in answer.json()["error"]["message"]) == (400, True)


def test_an_error_in_the_middle_of_a_response_is_an_event(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = ("The ", EngineFailed("The engine failed."))
    last = sse(client(), RESPONSES, {"input": "hi"})[-1]
    assert (last["type"], last["code"], last["message"]) == ("error", "server_error", "The engine failed.")
    assert client().refusal(RESPONSES, {"input": "hi"})[0] == 500


def test_tokens_are_counted_with_their_tools(client: Make, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def count(_: Any, prompt: Sequence[Any], **options: Any) -> int:
        seen.append(options)
        return 3

    monkeypatch.setattr(runtime, "count_tokens", count)
    monkeypatch.setattr(runtime, "tokenize", lambda *_, **options: [seen.append(options)] and [1])
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    data(client().post(f"{MESSAGES}/count_tokens", {"messages": [{"role": "user", "content": "hi"}], "tools": tools}))
    data(client().post("/tokenize", chat_body("hi", tools=TOOLS)))
    assert [each["tools"] for each in seen] == [TOOLS, TOOLS]
