"""What the OpenAPI document says of Ollama's routes."""

from __future__ import annotations

from typing import Final

from llmasos_serve_http.ollama.bodies import OPTIONS, REFUSED, REFUSED_OPTIONS
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.schemas import COUNT, FLAG, OBJECT, TEXT, Schema, answer, arguments, body, harmless

_OPTIONS: Final = body({
    **arguments(OPTIONS), **harmless(REFUSED_OPTIONS), "num_predict": {"anyOf": [COUNT, {"enum": [-1, -2]}]}, "seed": {"type": "integer"},
})  # fmt: skip
_SHARED: Final = {
    "model": TEXT,
    "stream": FLAG,
    "think": FLAG,
    "options": _OPTIONS,
    "format": {"anyOf": [{"enum": ["", "json"]}, OBJECT]},
    **harmless(REFUSED),
}
_IMAGES: Final[Schema] = {"type": ["array", "null"], "items": TEXT}
_MESSAGE: Final[Schema] = {
    "type": "object",
    "properties": {"role": TEXT, "content": {"type": ["string", "null"]}, "images": _IMAGES},
    "required": ["role"],
}
_TOLD: Final = {"model": TEXT, "created_at": TEXT, "done": FLAG}
_MODELS: Final = Operation(answer=answer(models={"type": "array", "items": answer(name=TEXT, model=TEXT, details=OBJECT)}))
_ERROR: Final = answer(error=TEXT)

CHAT: Final = Operation(
    body=body(
        {**_SHARED, "tools": {"type": "array", "items": OBJECT}, "messages": {"type": "array", "items": _MESSAGE, "minItems": 1}},
        required=["messages"],
    ),
    answer=answer(**_TOLD, message=OBJECT),
    lines={"anyOf": [answer(**_TOLD, message=OBJECT), _ERROR]},
)
GENERATE: Final = Operation(
    body=body({**_SHARED, "prompt": TEXT, "system": TEXT, "raw": FLAG, "images": _IMAGES}, required=["prompt"]),
    answer=answer(**_TOLD, response=TEXT),
    lines={"anyOf": [answer(**_TOLD, response=TEXT), _ERROR]},
)
TAGS: Final = _MODELS
LOADED: Final = _MODELS
SHOW: Final = Operation(body=body({"model": TEXT, "name": TEXT}), answer=answer(model_info=OBJECT, details=OBJECT))
VERSION: Final = Operation(answer=answer(version=TEXT))
