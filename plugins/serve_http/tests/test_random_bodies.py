"""Bodies that no client sends: each is answered or refused, and none is an error of the server."""

from __future__ import annotations

import string
from typing import Any

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.application import Application
from llmasos_serve_http.options import Options

from .in_process import Client

FIELDS = (
    "model", "messages", "prompt", "input", "inputs", "stream", "stream_options", "max_tokens", "max_completion_tokens", "logprobs",
    "top_logprobs", "response_format", "tools", "n", "stop", "system", "options", "format", "raw", "tokens", "encoding_format", "thinking",
    "tool_choice", "function", "name", "parameters", "input_schema", "tool_calls", "arguments", "call_id", "output", "reasoning", "think",
    "role", "content", "type", "text", "json_schema", "schema", "include_usage", "num_predict", "seed", "temperature",
)  # fmt: skip
PATHS = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/rerank", "/v1/messages",
    "/v1/messages/count_tokens", "/api/chat", "/api/generate",
    "/api/show", "/tokenize", "/detokenize", "/v1/tasks/repeat",
)  # fmt: skip
KEYS = st.sampled_from(FIELDS) | st.text(string.ascii_letters, max_size=5)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(FIELDS)
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": VALUES}), max_size=3
)
BODIES = st.dictionaries(KEYS, VALUES, max_size=6).flatmap(
    lambda body: st.sampled_from([body]) | MESSAGES.map(lambda messages: {"prompt": "a", **body, "messages": messages})
)


@pytest.fixture(scope="module")
def made() -> Any:
    application = Application(ScriptedRuntime(), Options())
    yield Client(application)
    application.close()


@given(path=st.sampled_from(PATHS), body=BODIES)
@settings(max_examples=2 * settings.default.max_examples, deadline=None)
def test_no_json_is_an_error_of_the_server(made: Client, path: str, body: dict[str, Any]) -> None:
    answer = made.raw(path, orjson.dumps(body))
    assert answer.status_code < 500 or (path in ("/v1/embeddings", "/v1/rerank") and answer.status_code == 501), (
        answer.status_code,
        answer.text,
    )
    assert made.application.gate.active == 0


@given(path=st.sampled_from(PATHS), body=st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_are_an_error_of_the_server(made: Client, path: str, body: bytes) -> None:
    assert 400 <= made.raw(path, body).status_code < 500
