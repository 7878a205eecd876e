"""``/v1/completions``: what reaches the runtime, and what clients get."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs import Rejected
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
        ("prompt", None), ("prompt", ["a", 1]), ("prompt", [1, "a"]), ("prompt", ["a", None]), ("prompt", ["a"] * 129),
        ("prompt", [[1], [None]]), ("prompt", []), ("prompt", [[]]), ("prompt", 5), ("prompt", [[[1]]]),
        ("echo", 1), ("suffix", "x"), ("best_of", 2),
        ("n", 0), ("logprobs", 6), ("logprobs", True), ("stream", 1),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_if_ignored_is_refused_by_name(client: Make, runtime: ScriptedRuntime, field: str, value: Any) -> None:
    status, error = client().refusal(PATH, {"prompt": "Once", field: value})
    assert (status, error["param"]) == (400, field)
    assert runtime.prompts == []


def test_an_echo_with_log_probabilities_is_refused(client: Make) -> None:
    """There are none of the prompt, and a list without them would be taken for whole."""
    status, error = client().refusal(PATH, {"prompt": "Once", "echo": True, "logprobs": 1})
    assert (status, error["param"]) == (400, "echo")
    status, error = client().refusal(PATH, {"prompt": ["a"] * 65, "n": 2})
    assert (status, error["param"], "130" in error["message"] or "65 prompts" in error["message"]) == (400, "prompt", True)


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "prompt",
    [["Once", "Twice", "Once"], [list(b"Once"), list(b"Twice"), list(b"Once")], ["Once", list(b"Twice"), "Once"], "Once", list(b"Once")],
)
def test_each_prompt_has_its_answers_at_its_indexes(client: Make, runtime: ScriptedRuntime, prompt: Any, n: int, echo: bool) -> None:
    """Those of the first prompt come first; whole and streamed alike, with an echo too; usage is of all, and comes once."""
    runtime.script["Once"], runtime.script["Twice"] = (" upon", " a time"), (" told",)
    names = ["Once", "Twice", "Once"] if isinstance(prompt[0], str | list) and not isinstance(prompt, str) else ["Once"]
    body = {"prompt": prompt, "n": n, "echo": echo, "stream_options": {"include_usage": True}}
    expected = [(name if echo else "") + {"Once": " upon a time", "Twice": " told"}[name] for name in names for _ in range(n)]
    whole = data(client().post(PATH, body))
    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in whole["choices"]] == [
        (index, text, "stop") for index, text in enumerate(expected)
    ]
    tokens = n * sum({"Once": 2, "Twice": 1}[name] for name in names)
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (3 * len(names), tokens)
    *chunks, usage = client().chunks(PATH, body)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert ["".join(choice["text"] for choice in choices if choice["index"] == index) for index in range(len(expected))] == expected
    assert [choice["index"] for choice in choices if choice["finish_reason"]] == list(range(len(expected)))
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])


@pytest.mark.parametrize("stream", [False, True])
def test_one_of_several_prompts_that_is_refused_ends_the_others(client: Make, runtime: ScriptedRuntime, stream: bool) -> None:
    """Before they begin, and in the middle; nothing of them goes on."""
    runtime.script["Once"] = (" upon", threading.Event(), " a time")
    status, error = client().refusal(PATH, {"prompt": ["Once", ""], "stream": stream})
    assert (status, error["type"]) == (400, "invalid_request_error")
    runtime.script["full"] = (Rejected("The queue is full.", 2.0),)
    answer = client().post(PATH, {"prompt": ["Once", "full"], "stream": stream})
    if stream and answer.status_code == 200:  # the first piece of the other came before
        assert '"code":"rate_limit_exceeded"' in answer.text
    else:
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert all(each.cancelled.wait(10) for each in runtime.answers if not each.ended.is_set())
