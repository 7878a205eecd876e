"""A real model calls tools through the HTTP server, though its chat template writes none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

import llmasos

if TYPE_CHECKING:
    import openai

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
    },
}
MESSAGES: Any = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    import openai

    config = {"model": {"source": "smollm2"}, "loader": "onnx", "server": [{"use": "http", "port": 0}]}
    with (
        llmasos.Pipeline.from_config(config) as pipeline,
        llmasos.Servers(pipeline) as servers,
        openai.OpenAI(base_url=f"{servers.endpoints[0].url}/v1", api_key="none", max_retries=0) as found,
    ):
        yield found


ASKED: Any = {
    "model": "default",
    "messages": MESSAGES,
    "tools": [WEATHER],
    "temperature": 0,
    "parallel_tool_calls": False,
    "max_tokens": 80,
}
REQUIRED: Any = {"type": "function", "function": {"name": "get_weather"}}


def test_smollm2_calls_the_tool_that_it_must_with_arguments_of_its_schema(client: openai.OpenAI) -> None:
    import jsonschema

    whole = client.chat.completions.create(**ASKED, tool_choice=REQUIRED).choices[0]
    (call,) = whole.message.tool_calls or ()
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, WEATHER["function"]["parameters"])
    assert "Paris" in arguments["city"]
    assert arguments["unit"] == "celsius"


@pytest.mark.long  # the tests of serve_http show both on each change, on models that are told what to say
def test_whole_and_streamed_calls_are_the_same_and_where_it_may_call_none_it_says_something(client: openai.OpenAI) -> None:
    (call,) = client.chat.completions.create(**ASKED, tool_choice=REQUIRED).choices[0].message.tool_calls or ()
    with client.chat.completions.stream(**ASKED, tool_choice=REQUIRED) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert streamed.function.arguments == call.function.arguments
    said = client.chat.completions.create(**{**ASKED, "max_tokens": 8}, tool_choice="none").choices[0].message
    assert said.content
    assert not said.tool_calls
