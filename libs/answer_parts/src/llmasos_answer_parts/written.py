"""Tools, calls and results as texts of messages, in the form of Hermes: for chat templates that write none of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmasos_answer_parts.call_forms import HERMES

_BEFORE: Final = "You may call functions. Each line between <tools> and </tools> describes one as JSON.\n<tools>\n"
_AFTER: Final = (
    "\n</tools>\nTo call a function, end your answer with its name and its arguments as JSON:\n"
    f'{HERMES.begin}\n{{"name": "the name", "arguments": {{"a parameter": "its value"}}}}\n{HERMES.end}\n'
    "What it returns comes between <tool_response> and </tool_response>."
)


def with_tools(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the tools described in the system's message, which is added where there is none."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    described = f"{_BEFORE}{lines}{_AFTER}"
    found = [dict(message) for message in messages]
    if found and found[0].get("role") == "system":
        found[0]["content"] = f"{found[0]['content']}\n\n{described}"
        return found
    return [{"role": "system", "content": described}, *found]


def as_texts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with calls in the text of the assistant, and results, those of one answer together, in one of the user."""
    found: list[dict[str, Any]] = []
    results = False
    for message in messages:
        kept = {name: value for name, value in message.items() if name not in ("tool_calls", "tool_call_id")}
        if message.get("role") == "tool":
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if results:
                found[-1]["content"] += f"\n{text}"
            else:
                found.append({"role": "user", "content": text})
            results = True
            continue
        results = False
        calls = [_written(call["function"]) for call in message.get("tool_calls") or ()]
        found.append({**kept, "content": "\n".join(filter(None, (message["content"], *calls)))} if calls else kept)
    return found


def _written(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], HERMES.arguments: function.get("arguments", {})}
    return f"{HERMES.begin}\n{json.dumps(call, ensure_ascii=False)}\n{HERMES.end}"
