"""``/v1/completions``: what reaches the runtime, and what clients get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs.testing import ScriptedRuntime

from .in_process import Client, data

PATH = "/v1/completions"
Make = Callable[..., Client]


def test_a_whole_answer_and_chunks_have_openais_form(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["Once"] = (" upon", " a time")
    found = data(client().post(PATH, {"prompt": ["Once"], "max_tokens": 5, "temperature": 0.5}))
    assert (found["object"], found["id"][:5]) == ("text_completion", "cmpl-")
    assert found["choices"] == [{"index": 0, "text": " upon a time", "logprobs": None, "finish_reason": "stop"}]
    assert found["usage"]["completion_tokens"] == 2
    assert runtime.samplings == [{"temperature": 0.5, "max_new_tokens": 5}]
    *chunks, usage = client().chunks(PATH, {"prompt": "Once", "stream_options": {"include_usage": True}})
    assert [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [
        (" upon", None), (" a time", None), ("", "stop"),
    ]  # fmt: skip
    assert (usage["choices"], usage["usage"]) == ([], found["usage"])
    assert runtime.samplings[-1]["max_new_tokens"] == 16, "OpenAI's default"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None), ("prompt", ["a", "b"]), ("prompt", [1, "a"]),
        ("prompt", [[1], [2]]), ("prompt", []), ("prompt", [[]]), ("prompt", 5),
        ("echo", True), ("suffix", "x"), ("best_of", 2),
        ("n", 0), ("logprobs", 6), ("logprobs", True), ("stream", 1),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_if_ignored_is_refused_by_name(client: Make, runtime: ScriptedRuntime, field: str, value: Any) -> None:
    status, error = client().refusal(PATH, {"prompt": "Once", field: value})
    assert (status, error["param"]) == (400, field)
    assert runtime.prompts == []
