"""``/v1/embeddings``."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs.testing import ScriptedRuntime

from .in_process import Client, data

PATH = "/v1/embeddings"
Make = Callable[..., Client]


def test_vectors_come_as_numbers_or_packed(client: Make, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "embed", lambda _, texts, **__: [[len(text), -0.5] for text in texts])
    found = data(client().post(PATH, {"input": ["a b", "c"], "model": "default"}))
    assert [each["embedding"] for each in found["data"]] == [[3.0, -0.5], [1.0, -0.5]]
    assert [each["index"] for each in found["data"]] == [0, 1]
    assert (found["model"], found["usage"]) == ("default", {"prompt_tokens": 3, "total_tokens": 3})
    packed = data(client().post(PATH, {"input": "a b", "encoding_format": "base64"}))["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (3.0, -0.5)


def test_a_loader_without_embeddings_is_said_with_501(client: Make) -> None:
    status, error = client().refusal(PATH, {"input": "a"})
    assert (status, error["code"]) == (501, "unsupported_model")
    assert "no embeddings" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"), ({"input": []}, "input"), ({"input": ""}, "input"), ({"input": [1, 2]}, "input"), ({"input": ["a", ""]}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"), ({"input": "a", "dimensions": 8}, "dimensions"),
    ],
)  # fmt: skip
def test_what_is_no_such_request_is_refused_by_name(client: Make, body: dict[str, Any], param: str) -> None:
    status, error = client().refusal(PATH, body)
    assert (status, error["param"]) == (400, param)
