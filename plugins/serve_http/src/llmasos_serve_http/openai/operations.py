"""What the OpenAPI document says of OpenAI's routes."""

from __future__ import annotations

from typing import Final

from llmasos_serve_http.openai.chat import MOST_ALTERNATIVES as CHAT_ALTERNATIVES
from llmasos_serve_http.openai.completions import MOST_ALTERNATIVES as COMPLETION_ALTERNATIVES, REFUSED as COMPLETIONS_REFUSED
from llmasos_serve_http.openai.embeddings import MOST_TEXTS
from llmasos_serve_http.openai.response_bodies import REFUSED as RESPONSES_REFUSED
from llmasos_serve_http.openai.sampling import FIELDS, MOST_ANSWERS, REFUSED
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.schemas import COUNT, FLAG, OBJECT, TEXT, Schema, answer, argument, arguments, body, harmless, listed, nullable

_MESSAGE: Final[Schema] = {
    "type": "object",
    "properties": {"role": TEXT, "content": {"type": ["string", "array", "null"], "items": OBJECT}},
    "required": ["role"],
}
MESSAGES: Final[Schema] = {"type": "array", "items": _MESSAGE, "minItems": 1}

_FORMAT: Final[Schema] = {
    "anyOf": [
        {"type": "object", "properties": {"type": {"enum": ["text", "json_object"]}}, "required": ["type"]},
        {
            "type": "object",
            "properties": {"type": {"const": "json_schema"}, "json_schema": answer(schema=OBJECT)},
            "required": ["type", "json_schema"],
        },
    ]
}
_NUMBER: Final[Schema] = {"type": "integer", "minimum": 0}
_PROGRESS: Final[Schema] = {
    "type": "boolean",
    "description": "A stream begins with chunks whose prompt_progress tells how much of the prompt is computed, at most four a second.",
}
_STREAM: Final = {"stream": FLAG, "stream_options": body({"include_usage": FLAG}), "return_progress": _PROGRESS}
_SAMPLING: Final = {"model": TEXT, **arguments(FIELDS), **harmless(REFUSED)}
_ANSWERS: Final = {"n": {"type": "integer", "minimum": 1, "maximum": MOST_ANSWERS}}
_SHARED: Final = {**_SAMPLING, **_ANSWERS, "response_format": _FORMAT, "max_tokens": COUNT, **_STREAM}
_CHOICE: Final[Schema] = {"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object", "required": ["type"]}]}
#: Tools of the client, and how a model is to use them; `/tokenize` takes them too.
TOOLS: Final = {
    "tools": {"type": "array", "items": answer(type={"const": "function"}, function=answer(name=TEXT))},
    "tool_choice": _CHOICE,
    "parallel_tool_calls": FLAG,
    "reasoning_effort": {"enum": ["none"], "description": "Other values are refused."},
}

_USAGE: Final = answer(prompt_tokens={"type": "integer"}, completion_tokens={"type": "integer"}, total_tokens={"type": "integer"})
_REASON: Final[Schema] = {"enum": ["stop", "length", "content_filter", "tool_calls"]}


def _whole(kind: str, **choice: Schema) -> Schema:
    choices = {"type": "array", "items": answer(index={"type": "integer"}, finish_reason=_REASON, **choice), "minItems": 1}
    return answer(id=TEXT, object={"const": kind}, created={"type": "integer"}, model=TEXT, choices=choices, usage=_USAGE)


def _chunk(kind: str, **choice: Schema) -> Schema:
    """Or an error, which ends a stream."""
    choices = {"type": "array", "items": answer(index={"type": "integer"}, finish_reason=nullable(_REASON), **choice)}
    chunk = answer(id=TEXT, object={"const": kind}, created={"type": "integer"}, model=TEXT, choices=choices)
    progress = answer(total=COUNT, cache=_NUMBER, processed=_NUMBER, time_ms=_NUMBER)
    told = {**chunk, "properties": {**chunk["properties"], "prompt_progress": progress}}
    return {"anyOf": [told, answer(error=answer(message=TEXT))]}


_MODEL: Final = answer(id=TEXT, object={"const": "model"}, created={"type": "integer"}, owned_by=TEXT)

MODELS: Final = Operation(answer=listed(_MODEL))
MODEL: Final = Operation(answer=_MODEL)
CHAT: Final = Operation(
    body=body(
        {
            **_SHARED,
            "messages": MESSAGES,
            "max_completion_tokens": COUNT,
            "logprobs": FLAG,
            "top_logprobs": {"type": "integer", "minimum": 0, "maximum": CHAT_ALTERNATIVES},
            "chat_template_kwargs": argument("template_arguments"),
            **TOOLS,
        },
        required=["messages"],
    ),
    answer=_whole("chat.completion", message=answer(role={"const": "assistant"}, content=nullable(TEXT))),
    events=_chunk("chat.completion.chunk", delta=OBJECT),
)
COMPLETIONS: Final = Operation(
    body=body(
        {
            **_SHARED,
            **harmless(COMPLETIONS_REFUSED),
            "prompt": {
                "anyOf": [
                    TEXT,
                    {"type": "array", "items": _NUMBER, "minItems": 1},
                    {
                        "type": "array",
                        "items": {"type": ["string", "array"], "items": _NUMBER, "minItems": 1},
                        "minItems": 1,
                        "maxItems": MOST_ANSWERS,
                        "description": "Several prompts, each with n answers; no more answers than a prompt may have by itself.",
                    },
                ]
            },
            "echo": {"type": "boolean", "description": "Answers begin with their prompts; not together with logprobs."},
            "logprobs": {"type": "integer", "minimum": 0, "maximum": COMPLETION_ALTERNATIVES},
        },
        required=["prompt"],
    ),
    answer=_whole("text_completion", text=TEXT),
    events=_chunk("text_completion", text=TEXT),
)
RESPONSES: Final = Operation(
    body=body(
        {
            **_SAMPLING,
            **harmless(RESPONSES_REFUSED),
            "previous_response_id": {"enum": [], "description": "This server keeps no responses."},
            "input": {"type": ["string", "array"], "items": OBJECT, "minItems": 1},
            "instructions": TEXT,
            "max_output_tokens": COUNT,
            "metadata": OBJECT,
            "user": {},
            "text": OBJECT,
            "reasoning": body({"effort": {"enum": ["none"]}}),
            "tools": {
                "type": "array",
                "items": answer(type={"const": "function"}, name=TEXT),
                "description": 'Where an assistant answers, {"type": "mcp", "server_label": "llmasos"} names the tools of this server.',
            },
            "tool_choice": _CHOICE,
            "parallel_tool_calls": FLAG,
            "chat_template_kwargs": argument("template_arguments"),
            "stream": FLAG,
        },
        required=["input"],
    ),
    answer=answer(
        id=TEXT,
        object={"const": "response"},
        created_at={"type": "integer"},
        status={"enum": ["completed", "incomplete"]},
        model=TEXT,
        output={"type": "array", "items": answer(type=TEXT)},
        usage=answer(input_tokens={"type": "integer"}, output_tokens={"type": "integer"}, total_tokens={"type": "integer"}),
    ),
    events=answer(type=TEXT, sequence_number={"type": "integer"}),
)
EMBEDDINGS: Final = Operation(
    body=body(
        {
            "model": TEXT,
            "input": {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "items": _NUMBER, "minItems": 1},
                    {
                        "type": "array",
                        "items": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": _NUMBER, "minItems": 1}]},
                        "minItems": 1,
                        "maxItems": MOST_TEXTS,
                    },
                ]
            },
            "encoding_format": {"enum": ["float", "base64"]},
            "dimensions": COUNT,
        },
        required=["input"],
    ),
    answer=listed(
        answer(
            object={"const": "embedding"},
            index={"type": "integer"},
            embedding={"type": ["string", "array"], "items": {"type": "number"}},
        )
    ),
)
RERANK: Final = Operation(
    body=body(
        {
            "model": TEXT,
            "query": {"type": "string", "minLength": 1},
            "documents": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MOST_TEXTS},
            "top_n": COUNT,
            "return_documents": FLAG,
        },
        required=["query", "documents"],
    ),
    answer=answer(results={"type": "array", "items": answer(index={"type": "integer"}, relevance_score={"type": "number"})}),
)
