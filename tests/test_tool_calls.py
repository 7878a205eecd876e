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


def test_smollm2_calls_the_tool_that_it_must_with_arguments_of_its_schema(client: openai.OpenAI) -> None:
    """Whole and streamed are the same; where it may call none it says something."""
    import jsonschema

    asked: Any = {
        "model": "default",
        "messages": MESSAGES,
        "tools": [WEATHER],
        "temperature": 0,
        "parallel_tool_calls": False,
        "max_tokens": 80,
    }
    required = {"type": "function", "function": {"name": "get_weather"}}
    whole = client.chat.completions.create(**asked, tool_choice=required).choices[0]
    (call,) = whole.message.tool_calls or ()
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, WEATHER["function"]["parameters"])
    assert "Paris" in arguments["city"]
    assert arguments["unit"] == "celsius"
    with client.chat.completions.stream(**asked, tool_choice=required) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert streamed.function.arguments == call.function.arguments
    said = client.chat.completions.create(**{**asked, "max_tokens": 8}, tool_choice="none").choices[0].message
    assert said.content
    assert not said.tool_calls
