"""What the OpenAPI document says of Anthropic's routes."""

from __future__ import annotations

from typing import Final

from llmasos_serve_http.anthropic.messages import FIELDS, REFUSED
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.schemas import FLAG, OBJECT, TEXT, Schema, answer, arguments, body, harmless

_BLOCK: Final = answer(type={"const": "text"}, text=TEXT)
_CONTENT: Final[Schema] = {"type": ["string", "array"], "items": _BLOCK}
_ANY_CONTENT: Final[Schema] = {"type": ["string", "array"], "items": answer(type=TEXT)}
_MESSAGE: Final[Schema] = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "assistant"]}, "content": _ANY_CONTENT},
    "required": ["role", "content"],
}
_PROMPT: Final = {
    "model": TEXT,
    "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
    "system": _CONTENT,
    "tools": {"type": "array", "items": answer(name=TEXT, input_schema=OBJECT)},
    "tool_choice": answer(type={"enum": ["auto", "any", "tool", "none"]}),
    "thinking": answer(type={"enum": ["enabled", "disabled", "adaptive"]}),
}

MESSAGES: Final = Operation(
    body=body({**_PROMPT, **arguments(FIELDS), **harmless(REFUSED), "stream": FLAG}, required=["messages", "max_tokens"]),
    answer=answer(
        id=TEXT,
        type={"const": "message"},
        role={"const": "assistant"},
        content={"type": "array", "items": OBJECT},
        model=TEXT,
        stop_reason=TEXT,
        usage=OBJECT,
    ),
    events=answer(type=TEXT),
)
COUNT_TOKENS: Final = Operation(body=body(_PROMPT, required=["messages"]), answer=answer(input_tokens={"type": "integer"}))
