"""``/v1/embeddings``."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs import Ranked, TokenPrompt
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


def test_the_models_own_prompt_counts_as_used(client: Make, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model puts before a passage is encoded, so it counts; token ids are encoded as they are."""
    monkeypatch.setattr(runtime, "embed", lambda _, texts, **__: [[0.0]] * len(texts))
    prompts = {"passage": "passage :", None: ""}
    monkeypatch.setattr(runtime, "count_tokens", lambda _, text, kind=None, **__: len(f"{prompts[kind]} {text}".split()))
    found = data(client().post(PATH, {"input": ["a b", "c", [5, 6]]}))
    assert found["usage"] == {"prompt_tokens": 4 + 3 + 2, "total_tokens": 9}


def test_a_loader_without_embeddings_is_said_with_501(client: Make) -> None:
    status, error = client().refusal(PATH, {"input": "a"})
    assert (status, error["code"]) == (501, "unsupported_model")
    assert "no embeddings" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"), ({"input": []}, "input"), ({"input": ""}, "input"), ({"input": [[]]}, "input"), ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 2049}, "input"), ({"input": [1, True]}, "input"), ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"), ({"input": "a", "dimensions": "8"}, "dimensions"),
    ],
)  # fmt: skip
def test_what_is_no_such_request_is_refused_by_name(client: Make, body: dict[str, Any], param: str) -> None:
    status, error = client().refusal(PATH, body)
    assert (status, error["param"]) == (400, param)


def test_dimensions_and_token_ids_reach_the_runtime(client: Make, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """One list of token ids is one text, several are several; texts and ids may be mixed, and ids count as tokens."""
    asked: list[Any] = []

    def embed(_: Any, texts: Any, **options: Any) -> list[list[float]]:
        asked.append((texts, options["dimensions"]))
        return [[0.0]] * len(texts)

    monkeypatch.setattr(runtime, "embed", embed)
    answer = data(client().post(PATH, {"input": [5, 6, 7], "dimensions": 1}))
    assert answer["usage"]["prompt_tokens"] == 3
    client().post(PATH, {"input": [[5], [6, 7], "a b"]})
    assert asked == [((TokenPrompt((5, 6, 7)),), 1), ((TokenPrompt((5,)), TokenPrompt((6, 7)), "a b"), None)]


def test_documents_come_in_the_order_of_their_scores(client: Make, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    def rank(_: Any, query: str, documents: Any, *, top: int | None, **__: Any) -> list[Ranked]:
        order = sorted(range(len(documents)), key=lambda place: -documents[place].count(query))
        return [Ranked(index=place, text=documents[place], score=0.5) for place in order][:top]

    monkeypatch.setattr(runtime, "rank", rank)
    found = data(client().post("/v1/rerank", {"query": "a", "documents": ["b", "aa", "a"], "top_n": 2}))
    assert found["results"] == [
        {"index": 1, "relevance_score": 0.5, "document": {"text": "aa"}}, {"index": 2, "relevance_score": 0.5, "document": {"text": "a"}},
    ]  # fmt: skip
    bare = data(client().post("/v1/rerank", {"query": "a", "documents": ["a"], "return_documents": False}))
    assert bare["results"] == [{"index": 0, "relevance_score": 0.5}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["a"]}, "query"), ({"query": "", "documents": ["a"]}, "query"), ({"query": "a"}, "documents"),
        ({"query": "a", "documents": []}, "documents"), ({"query": "a", "documents": ["a", 7]}, "documents"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["a"], "return_documents": 1}, "return_documents"),
    ],
)  # fmt: skip
def test_what_is_no_ranking_is_refused_by_name(client: Make, body: dict[str, Any], param: str) -> None:
    status, error = client().refusal("/v1/rerank", body)
    assert (status, error["param"]) == (400, param)
