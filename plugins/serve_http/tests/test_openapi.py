"""The OpenAPI document: it is of the routes there are and the fields that are read, and the server keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from starlette.routing import Route

from llmasos_conversations.store import ConversationStore
from llmasos_hookspecs import Principal, Ranked
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.application import Application
from llmasos_serve_http.call import Call
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.openapi import document
from llmasos_serve_http.options import Options

from .http_clients import chat_body
from .in_process import Client, data

#: A request that each route of POST answers.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat_body("hi", logprobs=True, tools=[{"type": "function", "function": {"name": "f"}}]),
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi", "tools": [{"type": "function", "name": "f"}]},
    "/v1/embeddings": {"input": "hi"},
    "/v1/audio/speech": {"input": "hi", "voice": "any"},
    "/v1/rerank": {"query": "hi", "documents": ["hi"]},
    "/v1/messages": chat_body("hi", max_tokens=3, system="Be brief."),
    "/v1/messages/count_tokens": chat_body("hi"),
    "/api/chat": chat_body("hi"),
    "/api/generate": {"prompt": "hi"},
    "/api/show": {"name": "default"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [104]},
    "/v1/tasks/{name}": {"inputs": {"text": "hi"}},
    "/console/conversations": {"label": "1", "messages": [{"role": "user", "content": "hi"}]},
    "/console/conversations/search": {"query": "otters"},
    "/console/conversations/open": {"label": "1"},
    "/console/conversations/delete": {"label": "1"},
    "/admin/keys": {"label": "reader"},
    "/admin/scheduler": {"use": "fifo"},
    "/admin/models/{name}/scheduler": {"use": "fifo"},
}
#: What takes a form with a file.
UPLOADS = {"/v1/audio/transcriptions"}
#: Fields that are read in other requests only.
ELSEWHERE = {"/tokenize": {"messages", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort"}}
#: Requests of each operation, and wrong ones; `make test-long` sends more.
EXAMPLES = settings.default.max_examples // 25
CHECKED = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversation 1."""
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path))
    ConversationStore.chosen().add(None, [{"role": "user", "content": "Hello otters"}])


class Complete(ScriptedRuntime):
    """With embeddings and sound, and for everybody an administrator's permissions."""

    def __init__(self) -> None:
        super().__init__()
        self.permissions = {"use", "inspect", "administer"}

    def embed(self, principal: Principal, texts: Sequence[Any], **_: Any) -> Sequence[Sequence[float]]:
        return [[0.5, 1.0] for _ in texts]

    def rank(self, principal: Principal, query: str, documents: Sequence[str], **_: Any) -> Sequence[Ranked]:
        return [Ranked(index=place, text=text, score=0.5) for place, text in enumerate(documents)]

    async def arun(self, principal: Principal, task: str, inputs: Mapping[str, Any], **more: Any) -> Mapping[str, Any]:
        if task == "speak":
            return {"audio": "UklGRg==", "form": "wav", "sample_rate": 8000, "seconds": 0.1}
        if task == "transcribe":
            return {"text": "hi", "seconds": 0.1, "segments": [{"text": "hi", "start": 0.0, "end": 0.1}]}
        return await super().arun(principal, task, inputs, **more)


class Recording(dict[str, Any]):
    """A body that remembers which of its fields were looked for."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.read: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


@pytest.fixture
def complete() -> Iterator[Client]:
    application = Application(Complete(), Options())
    yield Client(application)
    application.close()


def test_every_route_is_in_the_document(complete: Client) -> None:
    """With its handler's sentence, its permission, and a schema of its errors; and what takes a body says which."""
    import schemathesis

    found = data(complete.ask("GET", "/openapi.json"))
    schemathesis.openapi.from_dict(found).validate()
    told = {(path, method.upper()) for path, operations in found["paths"].items() for method in operations}
    routes = [route for route in complete.application.routes if isinstance(route, Route)]
    there = {(route.path.replace(":path", ""), method) for route in routes for method in (route.methods or set()) - {"HEAD"}}
    assert told == there
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"].endswith("."), (path, method)
            assert ("requestBody" in operation) == (path in BODIES.keys() | UPLOADS and method == "post"), (path, method)
            assert (operation["security"] == []) == (path in ("/", "/console/{name}", "/healthz", "/readyz"))


@pytest.mark.parametrize("path", BODIES)
def test_the_fields_that_are_told_are_those_that_are_read(complete: Client, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """One that is read and not told, or told and not read, is missing in (or too much in) the ``operations`` beside its translator."""
    bodies: list[Recording] = []
    fields = Call.fields

    async def recorded(call: Call) -> dict[str, Any]:
        bodies.append(Recording(await fields(call)))
        return bodies[-1]

    monkeypatch.setattr(Call, "fields", recorded)
    answer = complete.post(path.replace("{name}", "repeat" if "tasks" in path else "default"), {**BODIES[path], "stream": False})
    assert answer.status_code == 200, answer.text
    told = document(complete.application.routes)["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert bodies[0].read | ELSEWHERE.get(path, set()) == set(told["properties"])


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("temperature", [0, 1.5], [-0.1, "1", True]), ("top_p", [1, 0.5], [0, 1.1]), ("top_k", [0, 9], [-1, 1.5]), ("seed", [0], [-1]),
        ("presence_penalty", [-100, 100], [101]), ("stop", ["a", ["a", "b"]], ["", [""], [1], 7]), ("ignore_eos", [True], ["yes"]),
        ("logit_bias", [{"7": 1.5}], [{"x": 1}, {"7": "a"}, []]), ("n", [1, 128], [0, 129]), ("top_logprobs", [0, 20], [21, -1]),
        ("max_tokens", [1], [0, "1"]), ("stream", [True], [1]), ("response_format", [{"type": "text"}], [{"type": "other"}, {}]),
        ("user", ["a", 7], []),
    ],
)  # fmt: skip
def test_schemas_hold_the_bounds_that_are_checked(complete: Client, field: str, right: list[Any], wrong: list[Any]) -> None:
    schema = document(complete.application.routes)["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    validator = jsonschema.Draft202012Validator(schema["schema"])
    for value in (*right, None):
        assert validator.is_valid(chat_body("hi") | {field: value}), value
    for value in wrong:
        assert not validator.is_valid(chat_body("hi") | {field: value}), value


@attrs.frozen
class Live:
    """A server that listens, its document, and the same as schemathesis reads it."""

    url: str
    told: Any
    schema: Any


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    import schemathesis

    server = HttpServer(Complete(), Options(port=0))
    server.start()
    url = server.endpoints[0].url
    told = httpx.get(f"{url}/openapi.json").json()
    yield Live(url, told, schemathesis.openapi.from_dict(told))
    server.stop()


def operations() -> list[Any]:
    """Each operation with requests that it allows, and where it takes anything, with those that it does not: on each change those of
    ``/v1``, which read their fields as the others do."""
    application = Application(Complete(), Options())
    paths = document(application.routes)["paths"]
    application.close()
    found = [(f"{method.upper()} {path}", each) for path, each_of in paths.items() for method, each in each_of.items()]
    # Any text is a name, so what takes nothing else has wrong requests only where a key can be wrong.
    wrong = [label for label, each in found if "requestBody" in each or (each["parameters"] and each["security"])]
    marked = ((label, () if " /v1/" in label else pytest.mark.long) for label in wrong)
    return [*((label, "positive") for label, _ in found), *(pytest.param(label, "negative", marks=marks) for label, marks in marked)]


@pytest.mark.parametrize(("label", "mode"), operations())
def test_requests_of_the_document_and_against_it_are_no_errors_of_the_server(live: Live, label: str, mode: str) -> None:
    """And each answer, streams included, is as the document says."""
    import schemathesis
    from schemathesis.checks import CHECKS

    cases = live.schema.find_operation_by_label(label).as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @given(case=cases)
    @settings(max_examples=EXAMPLES, phases=[Phase.generate], database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=live.url, checks=CHECKS.get_by_names(CHECKED))

    ask()


def test_an_answer_that_is_not_as_the_document_says_is_found(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong body, a wrong event, and an error of the server."""
    from schemathesis.checks import CHECKS
    from schemathesis.core.failures import FailureGroup

    operation = live.schema.find_operation_by_label("POST /v1/chat/completions")
    checks = CHECKS.get_by_names(CHECKED)

    def ask(**more: Any) -> None:
        operation.Case(body=chat_body("hi", **more), media_type="application/json").call_and_validate(base_url=live.url, checks=checks)

    ask()
    for name, wrong, more in (
        ("ChatRendering.whole", lambda *_: {"choices": []}, {}),
        ("ChatRendering.end", lambda *_: b"event: x\ndata\n\n", {"stream": True}),
        ("ChatRendering.whole", lambda *_: {}["missing"], {}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"llmasos_serve_http.openai.chat.{name}", wrong)
            with pytest.raises(FailureGroup):
                ask(**more)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages"])
def test_each_event_of_a_stream_is_as_the_document_says(live: Live, path: str) -> None:
    """Its data too, which validators of OpenAPI leave alone."""
    content = live.told["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    schema = content["itemSchema"]["properties"]["data"]["contentSchema"]
    text = httpx.post(f"{live.url}{path}", json={**BODIES[path], "stream": True, "stream_options": {"include_usage": True}}).text
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert len(events) > 3
    for event in events:
        if event != "[DONE]":
            jsonschema.validate(json.loads(event), schema)
