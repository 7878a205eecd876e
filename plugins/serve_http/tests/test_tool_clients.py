"""Clients that users have, with tools and reasoning: openai, anthropic and ollama, unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from llmasos_hookspecs import ReasoningEvent, ToolCallEvent
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import KEY
from llmasos_hookspecs.testing.tool_templates import tool_checkpoint
from llmasos_serve_http.listening import HttpServer

if TYPE_CHECKING:
    import openai

CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
PARIS = {"city": "Paris"}
FUNCTION: Any = {"name": "weather", "description": "The weather in a city.", "parameters": CITY}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
ANTHROPIC: Any = [{"name": "weather", "description": "The weather in a city.", "input_schema": CITY}]
ASKED: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def calling(server: HttpServer, runtime: ScriptedRuntime) -> HttpServer:
    """A server whose model reasons, answers and calls a tool twice; then it says what the tools returned."""
    runtime.script["hi"] = [
        ReasoningEvent(text="Hm, "), ReasoningEvent(text="Paris."), "I look.",
        ToolCallEvent(call=0, id="abc123DEF", name="weather", arguments='{"ci'), ToolCallEvent(call=0, arguments='ty": "Paris"}'),
        ToolCallEvent(call=1, id="xyz123DEF", name="weather", arguments='{"city": "Rome"}'),
    ]  # fmt: skip
    runtime.script["rain"] = ["It rains."]
    return server


def test_openai_calls_tools_and_gives_back_results(calling: HttpServer, openai_client: openai.OpenAI, runtime: ScriptedRuntime) -> None:
    """The chunks that it accumulates are the whole answer, and that can be sent back as it is."""
    whole = openai_client.chat.completions.create(model="default", messages=ASKED, tools=TOOLS)
    message = whole.choices[0].message
    assert message.tool_calls is not None
    assert [(each.id, each.function.name, json.loads(each.function.arguments)) for each in message.tool_calls] == [
        ("abc123DEF", "weather", PARIS), ("xyz123DEF", "weather", {"city": "Rome"}),
    ]  # fmt: skip
    assert message.reasoning_content == "Hm, Paris."
    assert whole.usage.completion_tokens_details.reasoning_tokens == 2
    with openai_client.chat.completions.stream(model="default", messages=ASKED, tools=TOOLS) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == whole.choices[0].finish_reason == "tool_calls"
    assert [(each.id, each.function.name, each.function.arguments) for each in streamed.message.tool_calls or []] == [
        (each.id, each.function.name, each.function.arguments) for each in message.tool_calls
    ]
    results: Any = [{"role": "tool", "tool_call_id": each.id, "content": "rain"} for each in message.tool_calls]
    answer = openai_client.chat.completions.create(model="default", messages=[*ASKED, message, *results], tools=TOOLS)
    assert answer.choices[0].message.content == "It rains."
    assert [each["role"] for each in runtime.given[-1]] == ["user", "assistant", "tool", "tool"]


def test_openai_has_responses(calling: HttpServer, openai_client: openai.OpenAI, runtime: ScriptedRuntime) -> None:
    import openai

    tools: Any = [{"type": "function", "strict": True, **FUNCTION}]
    whole = openai_client.responses.create(model="default", input="hi", instructions="Be kind.", tools=tools)
    assert (whole.output_text, whole.status, whole.usage.output_tokens) == ("I look.", "completed", 6)
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call", "function_call"]
    calls = [item for item in whole.output if item.type == "function_call"]
    assert [json.loads(each.arguments)["city"] for each in calls] == ["Paris", "Rome"]
    with openai_client.responses.stream(model="default", input="hi", tools=tools) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    assert deltas == ['{"ci', 'ty": "Paris"}', '{"city": "Rome"}']
    plain = [item.model_dump(exclude={"id", "parsed_arguments", "content"}) for item in final.output]
    assert plain == [item.model_dump(exclude={"id", "content"}) for item in whole.output]
    assert final.output_text == "I look."
    results: Any = [{"type": "function_call_output", "call_id": each.call_id, "output": "rain"} for each in calls]
    given: Any = [*ASKED, *(item.model_dump() for item in whole.output), *results]
    assert openai_client.responses.create(model="default", input=given, tools=tools).output_text == "It rains."
    assert [each["role"] for each in runtime.given[-1]] == ["user", "assistant", "tool", "tool"]
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client.responses.create(model="default", input="hi", previous_response_id=whole.id)
    assert refused.value.param == "previous_response_id"
    with pytest.raises(openai.APIError, match="The engine failed"):
        list(openai_client.responses.create(model="default", input="break", stream=True))


def test_anthropic_uses_tools_and_gives_back_results(calling: HttpServer, runtime: ScriptedRuntime) -> None:
    import anthropic  # seconds, in each process that collects the tests

    asked: Any = {"model": "default", "max_tokens": 99, "messages": ASKED, "tools": ANTHROPIC}
    with anthropic.Anthropic(base_url=calling.endpoints[0].url, api_key=KEY, max_retries=0) as client:
        whole = client.messages.create(**asked)
        assert [block.type for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert whole.stop_reason == "tool_use"
        assert [block.input for block in whole.content if block.type == "tool_use"] == [PARIS, {"city": "Rome"}]
        with client.messages.stream(**asked) as stream:
            deltas = [event.partial_json for event in stream if event.type == "input_json"]
            final = stream.get_final_message()
        assert "".join(deltas) == '{"city": "Paris"}{"city": "Rome"}'
        assert [block.model_dump() for block in final.content] == [block.model_dump() for block in whole.content]
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "rain"} for block in whole.content if block.type == "tool_use"
        ]
        asked["messages"] = [*ASKED, {"role": "assistant", "content": whole.content}, {"role": "user", "content": results}]
        assert client.messages.create(**asked).content[0].text == "It rains."
    assert [each["role"] for each in runtime.given[-1]] == ["user", "assistant", "tool", "tool"]


def test_ollama_calls_tools_and_gives_back_results(calling: HttpServer, runtime: ScriptedRuntime) -> None:
    import ollama

    client = ollama.Client(host=calling.endpoints[0].url)
    try:
        message = client.chat(model="default", messages=ASKED, tools=TOOLS).message
        assert (message.content, message.thinking) == ("I look.", "Hm, Paris.")
        assert [each.function.arguments for each in message.tool_calls or ()] == [PARIS, {"city": "Rome"}]
        parts = list(client.chat(model="default", messages=ASKED, tools=TOOLS, stream=True))
        assert [each.function.arguments for part in parts for each in part.message.tool_calls or ()] == [PARIS, {"city": "Rome"}]
        assert "".join(part.message.thinking or "" for part in parts) == "Hm, Paris."
        results = [{"role": "tool", "tool_name": "weather", "content": "rain"}]
        assert client.chat(model="default", messages=[*ASKED, message, *results], tools=TOOLS).message.content == "It rains."
    finally:
        client._client.close()
    assert [each["role"] for each in runtime.given[-1]] == ["user", "assistant", "tool"]


@pytest.fixture(scope="module")
def pipeline_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A client of a pipeline whose model is random, and whose chat template has Hermes's form."""
    import openai

    llmasos = pytest.importorskip("llmasos")
    folder = tool_checkpoint(tmp_path_factory.mktemp("tools") / "tiny", "hermes")
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"max_position_embeddings": 1024}), encoding="utf-8"
    )
    config = {
        "model": {"source": str(folder)},
        "loader": {"use": "onnx", "threads": 1},
        "server": [{"use": "http", "port": 0, "temperature": 0.0}],
    }
    with (
        llmasos.Pipeline.from_config(config) as pipeline,
        llmasos.Servers(pipeline) as servers,
        openai.OpenAI(base_url=f"{servers.endpoints[0].url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_the_schema_of_a_tool_is_enforced(pipeline_client: openai.OpenAI, choice: Any) -> None:
    """On a model that knows no JSON: whole and streamed, the call is one that the schema allows, and the same."""
    asked: Any = {
        "model": "default",
        "messages": ASKED,
        "tools": TOOLS,
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_tokens": 120,
    }
    whole = pipeline_client.chat.completions.create(**asked).choices[0]
    (call,) = whole.message.tool_calls or ()
    assert call.type == "function"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", None)
    with pipeline_client.chat.completions.stream(**asked) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert streamed.function.arguments == call.function.arguments


def test_a_pipelines_refusals_name_the_field(pipeline_client: openai.OpenAI) -> None:
    import openai

    for more, param in (
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            pipeline_client.chat.completions.create(model="default", messages=ASKED, **more)
        assert refused.value.param == param
