"""``/tokenize``, ``/detokenize`` and ``/v1/tasks``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmasos_hookspecs import NotAllowed
from llmasos_hookspecs.testing import ScriptedRuntime

from .http_clients import chat_body
from .in_process import Client, data

Make = Callable[..., Client]


def test_texts_become_tokens_and_tokens_texts(client: Make) -> None:
    assert data(client().post("/tokenize", {"prompt": "hé", "model": None})) == {"count": 3, "tokens": [104, 195, 169]}
    assert data(client().post("/tokenize", chat_body("hi"))) == {"count": 2, "tokens": [104, 105]}
    assert data(client().post("/detokenize", {"tokens": [104, 195, 169]})) == {"prompt": "hé"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": "a", "messages": []}, "prompt"), ("/tokenize", {"prompt": [1]}, "prompt"),
        ("/tokenize", {"messages": "a"}, "messages"), ("/tokenize", {"prompt": "a", "model": 1}, "model"), ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"), ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"), ("/v1/tasks/repeat", {}, "inputs"),
        ("/v1/tasks/repeat", {"inputs": "text"}, "inputs"),
    ],
)  # fmt: skip
def test_what_is_no_such_request_is_refused_by_name(client: Make, path: str, body: Any, param: str) -> None:
    status, error = client().refusal(path, body)
    assert (status, error["param"]) == (400, param)


def test_tasks_are_listed_with_their_schemas_and_run(client: Make) -> None:
    (task,) = data(client().ask("GET", "/v1/tasks"))["data"]
    assert data(client().ask("GET", "/v1/tasks/repeat")) == task
    assert (task["id"], task["inputs"]["required"]) == ("repeat", ["text"])
    output = data(client().post("/v1/tasks/repeat", {"inputs": {"text": "hé"}}))
    assert output == {"object": "task.output", "task": "repeat", "output": {"text": "hé"}}
    assert client().refusal("/v1/tasks/repeat", {"inputs": {"words": 1}})[0] == 400
    assert client().refusal("/v1/tasks/other", {"inputs": {}})[0] == 404
    assert client().ask("GET", "/v1/tasks/other").status_code == 404


def test_a_task_that_the_client_may_not_run_is_not_there(client: Make, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotAllowed("You may not.")

    monkeypatch.setattr(runtime, "tasks", lambda _: [])
    monkeypatch.setattr(runtime, "run", refuse)
    assert client().post("/v1/tasks/repeat", {"inputs": {"text": "x"}}).status_code == 404
