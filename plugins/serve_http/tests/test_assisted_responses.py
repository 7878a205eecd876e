"""``/v1/responses`` that a task answers with tools of the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import openai
import pytest

from llmasos_hookspecs import Principal, RequestError
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

CALLS = [
    {"id": "1", "tool": "clock", "arguments": {"timezone": "UTC"}, "result": "noon", "error": False},
    {"id": "2", "tool": "fail", "arguments": {}, "result": "Error: no.", "error": True},
]


class Assisting(ScriptedRuntime):
    """A runtime with a task that answers as the assistant does.

    Attributes:
        asked: the task's inputs, in order.
        waits: the task waits for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Mapping[str, Any]] = []
        self.waits = threading.Event()
        self.waits.set()

    async def arun(
        self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None, written: Any = None
    ) -> Mapping[str, Any]:
        import asyncio

        assert (task, model) == ("assist", "default")
        while not self.waits.is_set():
            await asyncio.sleep(0.01)
        self.asked.append(inputs)
        if inputs["message"] == "break":
            raise RequestError("It broke.")
        cut = inputs["message"] == "long"
        return {
            "text": "It is noon.", "calls": CALLS, "finish_reason": "length" if cut else "stop", "prompt_tokens": 7, "generated_tokens": 5
        }  # fmt: skip


@pytest.fixture
def runtime() -> Assisting:
    return Assisting()


@pytest.fixture
def client(runtime: Assisting) -> Iterator[openai.OpenAI]:
    server = HttpServer(runtime, Options(port=0, assistant="assist", comment_every=0.05))
    server.start()
    with openai.OpenAI(base_url=f"{server.endpoints[0].url}/v1", api_key="the-key-of-the-kit", max_retries=0) as found:
        yield found
    server.stop()


def test_calls_of_the_servers_tools_are_items(client: openai.OpenAI, runtime: Assisting) -> None:
    """What the client gives back of them is passed over; whole and streamed are the same."""
    asked: dict[str, Any] = {"model": "default", "instructions": "Be kind.", "max_output_tokens": 9, "temperature": 0.5}
    whole = client.responses.create(input="What time is it?", **asked)
    first, second, message = whole.output
    assert (first.type, first.name, first.arguments, first.output, first.error) == ("mcp_call", "clock", '{"timezone":"UTC"}', "noon", None)
    assert (second.type, second.output, second.status) == ("mcp_call", None, "failed")
    assert second.error.content == [{"type": "text", "text": "Error: no."}]
    assert (message.type, whole.output_text, whole.status) == ("message", "It is noon.", "completed")
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
    runtime.waits.clear()
    with client.responses.stream(input=again, tool_choice={"type": "mcp", "server_label": "llmasos", "name": "clock"}, **asked) as stream:
        runtime.waits.set()
        streamed = stream.get_final_response()
    assert [(item.type, getattr(item, "output", None)) for item in streamed.output] == [
        ("mcp_call", "noon"), ("mcp_call", None), ("message", None)
    ]  # fmt: skip
    assert streamed.output_text == whole.output_text
    assert runtime.asked[1]["messages"][1:] == [
        {"role": "user", "content": "What time is it?"}, {"role": "assistant", "content": "It is noon."}
    ]  # fmt: skip
    assert runtime.asked[1]["tool_choice"] == "clock"


def test_a_client_with_tools_of_its_own_is_answered_by_the_model(client: openai.OpenAI, runtime: Assisting) -> None:
    """And so is one that wants none."""
    function: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
    for given in ({"tools": [function]}, {"tool_choice": "none"}):
        assert client.responses.create(model="default", input="Hello", **given).output_text == "Hello"
    assert runtime.asked == []


def test_what_the_assistant_does_not_take_is_refused(client: openai.OpenAI, runtime: Assisting) -> None:
    for given, told in (
        ({"text": {"format": {"type": "json_object"}}}, "answers in text"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice must be"),
        ({"input": [{"role": "assistant", "content": "So."}]}, "must be a message of the user"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}, {"role": "user", "content": "x"}]}, "of the client"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"extra_body": {"chat_template_kwargs": {}}}, "chat_template_kwargs"),
        ({"input": "break"}, "It broke"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError, match=told):
            client.responses.create(**{"model": "default", "input": "Hello", **given})
    assert client.responses.create(model="default", input="long").status == "incomplete"


def test_an_error_behind_the_first_comment_ends_the_stream(client: openai.OpenAI, runtime: Assisting) -> None:
    runtime.waits.clear()
    stream = client.responses.create(model="default", input="break", stream=True)
    runtime.waits.set()
    with pytest.raises(openai.APIError, match="It broke"):
        list(stream)
