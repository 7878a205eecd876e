"""``/v1/responses`` that a task answers with tools of the server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llmasos_hookspecs import Principal, RequestError, TaskCall, TaskEvent, TaskOutput
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

if TYPE_CHECKING:
    import openai

CLOCK: dict[str, Any] = {"id": "1", "tool": "clock", "arguments": {"timezone": "UTC"}}
FAIL: dict[str, Any] = {"id": "2", "tool": "fail", "arguments": {}}
SEND: dict[str, Any] = {"id": "3", "tool": "send", "arguments": {"to": "ann"}}
#: Two calls at once, of which one was refused before it began, and the answer.
EVENTS: list[TaskEvent] = [
    "Let me ",
    "look.",
    TaskCall(kind="called", **CLOCK),
    TaskCall(kind="failed", text="Error: no.", **FAIL),
    TaskCall(kind="answered", text="noon", **CLOCK),
    "It is ",
    "noon.",
]
OURS: Any = {"type": "mcp", "server_label": "llmasos", "server_url": "http://127.0.0.1"}
ASKED: dict[str, Any] = {"model": "default", "instructions": "Be kind.", "max_output_tokens": 9, "temperature": 0.5}


class Assisting(ScriptedRuntime):
    """A runtime with a task that answers as the assistant does.

    Attributes:
        asked: the task's inputs, in order.
        steps: what it tells; it waits for an event of ``threading`` among them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Mapping[str, Any]] = []
        self.steps: list[TaskEvent | threading.Event] = list(EVENTS)

    async def task_events(
        self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None
    ) -> AsyncGenerator[TaskEvent, None]:
        assert (task, model) == ("assist", "default")
        self.asked.append(inputs)
        for step in self.steps:
            if isinstance(step, threading.Event):
                while not step.is_set():
                    await asyncio.sleep(0.01)
            elif inputs["message"] == "break":
                raise RequestError("It broke.")
            else:
                yield step
        cut = inputs["message"] == "long"
        waits = any(isinstance(step, TaskCall) and step.kind == "asked" for step in self.steps)
        finish = "confirm" if waits else "length" if cut else "stop"
        yield TaskOutput({"text": "It is noon.", "finish_reason": finish, "prompt_tokens": 7, "generated_tokens": 5})


@pytest.fixture
def runtime() -> Assisting:
    return Assisting()


@pytest.fixture
def client(runtime: Assisting) -> Iterator[openai.OpenAI]:
    import openai

    server = HttpServer(runtime, Options(port=0, assistant="assist", comment_every=0.05))
    server.start()
    with openai.OpenAI(base_url=f"{server.endpoints[0].url}/v1", api_key="the-key-of-the-kit", max_retries=0) as found:
        yield found
    server.stop()


def test_calls_of_the_servers_tools_are_items(client: openai.OpenAI, runtime: Assisting) -> None:
    """What the client gives back of them is passed over; whole and streamed are the same."""
    whole = client.responses.create(input="What time is it?", **ASKED)
    before, first, second, message = whole.output
    assert (before.type, before.content[0].text) == ("message", "Let me look.")
    assert (first.type, first.name, first.arguments, first.output, first.error) == ("mcp_call", "clock", '{"timezone":"UTC"}', "noon", None)
    assert (second.type, second.output, second.status) == ("mcp_call", None, "failed")
    assert second.error.content == [{"type": "text", "text": "Error: no."}]
    assert (message.type, message.content[0].text, whole.status) == ("message", "It is noon.", "completed")
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (7, 5)
    assert runtime.asked[0] == {
        "message": "What time is it?",
        "messages": [{"role": "system", "content": "Be kind."}],
        "tool_choice": "auto",
        "temperature": 0.5,
        "max_new_tokens": 9,
    }
    again = [
        {"role": "user", "content": "What time is it?"},
        *(item.model_dump() for item in whole.output),
        {"role": "user", "content": "So?"},
    ]
    with client.responses.stream(input=again, tool_choice={"type": "mcp", "server_label": "llmasos", "name": "clock"}, **ASKED) as stream:
        streamed = stream.get_final_response()
    assert [(item.type, getattr(item, "output", None)) for item in streamed.output] == [
        ("message", None), ("mcp_call", "noon"), ("mcp_call", None), ("message", None)
    ]  # fmt: skip
    assert streamed.output_text == whole.output_text
    assert runtime.asked[1]["messages"][1:] == [
        {"role": "user", "content": "What time is it?"}, {"role": "assistant", "content": "Let me look.\nIt is noon."}
    ]  # fmt: skip
    assert runtime.asked[1]["tool_choice"] == "clock"


def test_each_thing_is_told_as_it_happens(client: openai.OpenAI, runtime: Assisting) -> None:
    """Nothing is held back until the answer is complete: each step comes while the next one has not happened yet."""
    pauses = [threading.Event() for _ in EVENTS]
    runtime.steps = [each for pair in zip(EVENTS, pauses, strict=True) for each in pair]
    begun = ["response.output_item.added", "response.content_part.added", "response.output_text.delta"]
    called = [
        "response.output_item.added", "response.mcp_call.in_progress", "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
    ]  # fmt: skip
    expected = [
        ["response.created", "response.in_progress", *begun],
        ["response.output_text.delta"],
        ["response.output_text.done", "response.content_part.done", "response.output_item.done", *called],
        [*called, "response.mcp_call.failed", "response.output_item.done"],
        ["response.mcp_call.completed", "response.output_item.done"],
        begun,
        ["response.output_text.delta"],
    ]
    stream = iter(client.responses.create(input="What time is it?", stream=True, **ASKED))
    number = 0
    for pause, wanted in zip(pauses, expected, strict=True):
        for kind in wanted:  # would wait for ever for what comes only with the next step
            event = next(stream)
            assert (event.type, event.sequence_number) == (kind, number)
            number += 1
            if event.type == "response.output_item.done" and event.item.type == "mcp_call":
                assert (event.output_index, event.item.status) == ((1, "completed") if event.item.name == "clock" else (2, "failed"))
        pause.set()
    assert [event.type for event in stream][-1] == "response.completed"


def test_a_call_waits_for_the_client_that_can_approve_it(client: openai.OpenAI, runtime: Assisting) -> None:
    """The turn goes on with what the client gives back of it; nobody but the owner, and nothing but what the model asked for."""
    import openai

    runtime.steps = [*EVENTS[:5], TaskCall(kind="asked", **SEND)]
    first = client.responses.create(input="Tell Ann.", tools=[{**OURS, "allowed_tools": ["clock", "send"]}], **ASKED)
    assert [item.type for item in first.output] == ["message", "mcp_call", "mcp_call", "mcp_approval_request"]
    request: Any = first.output[-1]
    assert (request.name, request.arguments, first.status) == ("send", '{"to":"ann"}', "completed")
    assert (runtime.asked[0]["waits"], runtime.asked[0]["tools"]) == (True, ["clock", "send"])
    runtime.steps = [TaskCall(kind="called", **SEND), TaskCall(kind="answered", text="sent", **SEND), "Done."]
    approval = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    turn: list[Any] = [{"role": "user", "content": "Tell Ann."}, *(item.model_dump() for item in first.output), approval]
    second = client.responses.create(input=turn, tools=[OURS], **ASKED)
    assert [item.type for item in second.output] == ["mcp_call", "message"]
    asked = runtime.asked[1]
    assert (asked["message"], asked["approve"], asked["refuse"]) == ("Tell Ann.", ["3"], [])
    assert [(step["text"], [(call["tool"], call.get("result")) for call in step["calls"]]) for step in asked["done"]] == [
        ("Let me look.", [("clock", "noon"), ("fail", "Error: no."), ("send", None)])
    ]
    assert second.output[0].approval_request_id == request.id
    with pytest.raises(openai.BadRequestError, match="run once at most"):
        client.responses.create(input=turn, tools=[OURS], **ASKED)
    client.responses.create(input=[*turn[:-1], {**approval, "approve": False}], tools=[OURS], **ASKED)
    assert (runtime.asked[2]["approve"], runtime.asked[2]["refuse"]) == ([], ["3"])
    # Another call has to be approved in the same turn: the first is known by its request, and not run again.
    runtime.steps = [TaskCall(kind="asked", **{**SEND, "id": "4"})]
    third = client.responses.create(input="Tell Ann.", tools=[OURS], **ASKED)
    both = [*turn, *(item.model_dump() for item in (*second.output[:1], *third.output))]
    both.append({**approval, "approval_request_id": third.output[-1].id})
    client.responses.create(input=both, tools=[OURS], **ASKED)
    (step,) = runtime.asked[-1]["done"]
    assert [(call["tool"], call.get("result")) for call in step["calls"]][2:] == [("send", "sent"), ("send", None)]
    assert runtime.asked[-1]["approve"] == ["4"]
    changed = {**turn[-2], "arguments": '{"to":"bob"}'}
    other = {**turn[-2], "id": "mcpr_3.0000"}
    for given, told in (
        ([*turn[:-2], changed, approval], "none that this server made for you"),
        ([*turn[:-2], other, {**approval, "approval_request_id": other["id"]}], "none that this server made for you"),
        ([*turn[:-2], approval], "without its mcp_approval_request"),
        ([*turn[:-1], {**approval, "approval_request_id": "x"}], "no mcp_approval_response for the call of 'send'"),
        ([*turn[:-1], {**approval, "approve": "yes"}], "true or false"),
    ):
        with pytest.raises(openai.BadRequestError, match=told):
            client.responses.create(input=given, tools=[OURS], **ASKED)
    stranger = httpx.post(f"{client.base_url}responses", json={"input": turn, "tools": [OURS], **ASKED}, timeout=60)
    assert (stranger.status_code, "none that this server made for you" in stranger.text) == (400, True)
    client.responses.create(input="x", tools=[{**OURS, "require_approval": "never"}], **ASKED)
    assert runtime.asked[-1]["waits"] is False


def test_a_client_with_tools_of_its_own_is_answered_by_the_model(client: openai.OpenAI, runtime: Assisting) -> None:
    """And so is one that wants none."""
    function: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
    for given in ({"tools": [function]}, {"tool_choice": "none"}):
        assert client.responses.create(model="default", input="Hello", **given).output_text == "Hello"
    assert runtime.asked == []


def test_what_the_assistant_does_not_take_is_refused(client: openai.OpenAI, runtime: Assisting) -> None:
    import openai

    for given, told in (
        ({"text": {"format": {"type": "json_object"}}}, "answers in text"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice must be"),
        ({"input": [{"role": "assistant", "content": "So."}]}, "must be a message of the user"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}, {"role": "user", "content": "x"}]}, "of the client"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"extra_body": {"chat_template_kwargs": {}}}, "chat_template_kwargs"),
        ({"input": "break"}, "It broke"),
        ({"tools": [{**OURS, "require_approval": {"never": {}}}]}, "require_approval"),
        ({"tools": [{**OURS, "allowed_tools": "clock"}]}, "list of names"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]}, "text alone"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError, match=told):
            client.responses.create(**{"model": "default", "input": "Hello", **given})
    assert client.responses.create(model="default", input="long").status == "incomplete"


def test_an_error_behind_the_first_comment_ends_the_stream(client: openai.OpenAI, runtime: Assisting) -> None:
    import openai

    pause = threading.Event()
    runtime.steps = [pause, "never"]
    stream = client.responses.create(model="default", input="break", stream=True)
    pause.set()
    with pytest.raises(openai.APIError, match="It broke"):
        list(stream)


def test_a_task_that_tells_nothing_on_its_way_answers_with_its_text(client: openai.OpenAI, runtime: Assisting) -> None:
    runtime.steps = []
    assert client.responses.create(model="default", input="Hello").output_text == "It is noon."
    streamed = client.responses.create(model="default", input="Hello", stream=True)
    assert [event.delta for event in streamed if event.type == "response.output_text.delta"] == ["It is noon."]
