"""SmolLM2 calls tools under constraint: the right ones, with arguments of their schemas; on each change one that a client approves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import llmasos
from llmasos_app_assistant import Assistant
from llmasos_app_assistant.tools.signature import as_text

from .smollm2_situations import SITUATIONS, real_tools

pytestmark = pytest.mark.model

CONFIG: dict[str, Any] = {
    "model": {"source": "smollm2"},
    "loader": "onnx",
    "guard": [{"use": "injection"}],
    "tasks": {
        "assist": {"calculator": True, "clock": True, "policy": [{"tool": "clock", "action": "ask"}], "bounds": {"steps": 1, "parallel": 1}}
    },
    "server": [{"use": "http", "port": 0, "assistant": "assist"}],
}


@pytest.fixture(scope="module")
def pipeline() -> Iterator[llmasos.Pipeline]:
    with llmasos.Pipeline.from_config(CONFIG) as found:
        yield found


@pytest.mark.long  # test_situations.py has them with scripted answers
@pytest.mark.parametrize("name", SITUATIONS)
def test_situation(pipeline: llmasos.Pipeline, name: str) -> None:
    """What the model writes is a call that the schema allows, with what the message says; what comes of it, it is shown."""
    import jsonschema

    situation = SITUATIONS[name]
    tools = {tool.name: tool for tool in real_tools()}
    assistant = Assistant(pipeline.model, tools=list(tools.values()), policy=situation.policy, bounds=situation.bounds)
    answer = assistant.ask(situation.message, choice=situation.choice, only=situation.only, max_new_tokens=40)
    (call,) = answer.calls
    assert call.tool in situation.only if situation.choice == "required" else call.tool == situation.choice
    jsonschema.validate(dict(call.arguments), dict(tools[call.tool].parameters))
    assert {key: call.arguments.get(key) for key in situation.arguments} == situation.arguments
    assert call.result.startswith(situation.result)
    assert call.error == situation.error
    assert answer.finish_reason in ("steps", "length")
    assert answer.text


@pytest.mark.long
def test_the_server_runs_the_tools_of_a_response(pipeline: llmasos.Pipeline) -> None:
    """A client asks for no tool of its own, and is told of the call; one that would have to be approved, which it does not offer, is
    refused."""
    import openai

    with (
        llmasos.Servers(pipeline) as servers,
        openai.OpenAI(base_url=f"{servers.endpoints[0].url}/v1", api_key="none", max_retries=0) as client,
    ):
        choice: Any = {"type": "mcp", "server_label": "llmasos", "name": "calculator"}
        answer = client.responses.create(
            model="default", input="Calculate 17 * 23.", tool_choice=choice, max_output_tokens=32, temperature=0
        )
        asking: Any = {"type": "mcp", "server_label": "llmasos", "name": "clock"}
        refused = client.responses.create(
            model="default", input="What time is it?", tool_choice=asking, max_output_tokens=40, temperature=0
        )
    call, message = answer.output
    assert (call.type, call.name) == ("mcp_call", "calculator")
    assert as_text(call.output or call.error)
    assert message.type == "message"
    assert answer.usage is not None
    assert answer.usage.output_tokens > 5
    assert [item.status for item in refused.output if item.type == "mcp_call"] == ["failed"]


def test_a_client_of_the_server_approves_a_call(pipeline: llmasos.Pipeline) -> None:
    """The turn goes on with what the client gives back of it."""
    import openai

    ours: Any = {"type": "mcp", "server_label": "llmasos", "server_url": "http://127.0.0.1"}
    asked: dict[str, Any] = {"model": "default", "max_output_tokens": 40, "temperature": 0}
    choice: Any = {"type": "mcp", "server_label": "llmasos", "name": "clock"}
    message: Any = {"role": "user", "content": "What time is it?"}
    with (
        llmasos.Servers(pipeline) as servers,
        openai.OpenAI(base_url=f"{servers.endpoints[0].url}/v1", api_key="none", max_retries=0) as client,
    ):
        waiting: Any = client.responses.create(input=[message], tools=[ours], tool_choice=choice, **asked)
        (request,) = (item for item in waiting.output if item.type == "mcp_approval_request")
        turn: list[Any] = [message, *(item.model_dump() for item in waiting.output)]
        turn.append({"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True})
        events: list[Any] = list(client.responses.create(input=turn, tools=[ours], stream=True, **asked))
    kinds, answer = [event.type for event in events], events[-1].response
    call = answer.output[0]
    assert (call.type, call.name, call.status) == ("mcp_call", "clock", "completed")
    assert answer.output_text
    assert kinds.index("response.mcp_call.completed") < kinds.index("response.output_text.delta")
