"""No route goes round the guards of a pipeline: each that has a model read a text is walked with one that blocks it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_hookspecs.testing.reference_encoder import tiny_encoder

from .in_process import Client

PLUGINS = """
    import queue

    from llmasos_hookspecs import Allow, Block, Component, Limits, Principal, hookimpl

    EVENTS = queue.SimpleQueue()

    class Guard:
        stages = ("input", "tool_call", "tool_result")
        def check(self, text, passage): return Block("it is of gold") if "gold" in text else Allow()

    class Access:
        def authenticate(self, credentials): return Principal(name="u", tenant="t", limits=Limits())
        def allows(self, principal, permission, resource): return True
        def reserve(self, principal, tokens): return self
        def settle(self, tokens): pass
        def release(self): pass
        def audit(self, event): EVENTS.put(event)

    @hookimpl
    def llmasos_component(): return Component(summary="For tests.")

    @hookimpl
    def llmasos_create_guard(): return Guard()

    @hookimpl
    def llmasos_create_access(): return Access()
"""
GOLD = "the gold"
CHAT = [{"role": "user", "content": GOLD}]
ASKED = [{"role": "user", "content": "a"}]
HEADERS = {"accept": "application/json, text/event-stream", "authorization": "Bearer any"}


def called(name: str, **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


#: Route -> bodies that have a model read ``GOLD``: each way in which a text gets there.
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [{"messages": CHAT}, {"messages": [{"role": "tool", "tool_call_id": "1", "content": GOLD}, *ASKED]}],
    "/v1/completions": [{"prompt": GOLD}, {"prompt": GOLD, "n": 2}],
    "/v1/responses": [{"input": GOLD}, {"input": "a", "instructions": GOLD}],
    "/v1/messages": [{"max_tokens": 4, "messages": CHAT}, {"max_tokens": 4, "messages": ASKED, "system": GOLD}],
    "/api/chat": [{"messages": CHAT}],
    "/api/generate": [{"prompt": GOLD}, {"prompt": "a", "system": GOLD}],
    "/v1/embeddings": [{"model": "vectors", "input": GOLD}, {"model": "vectors", "input": ["a", GOLD]}],
    "/v1/rerank": [{"model": "vectors", "query": GOLD, "documents": ["a"]}, {"model": "vectors", "query": "a", "documents": [GOLD]}],
    "/v1/tasks/{name}": [{"inputs": {"prompt": GOLD}}],
    "/mcp": [called("generate", prompt=GOLD)],
}
#: Routes behind which no model reads the text of the body, and why.
OTHERS = {
    "/v1/messages/count_tokens": "it counts tokens",
    "/tokenize": "it counts tokens",
    "/detokenize": "it gives a text back",
    "/api/show": "it describes a model",
    "/v1/audio/transcriptions": "a transcriber hears sound",
    "/v1/audio/speech": "a speaker says what it is given",
    "/console/conversations": "it keeps what was said",
    "/console/conversations/search": "it looks in what was said",
    "/console/conversations/open": "it gives back what was said",
    "/console/conversations/delete": "it removes what was said",
}


def test_every_route_is_among_those_that_are_walked(client: Callable[..., Client], runtime: ScriptedRuntime) -> None:
    """A new one has to be added to them, or to say why no model reads what comes there; administration has its own permission."""
    routes = client(mcp=True, conversations=True).application.routes
    posted = {route.path for route in routes if "POST" in (getattr(route, "methods", None) or ())}  # type: ignore[attr-defined]
    assert {path for path in posted if not path.startswith("/admin/")} == {*BODIES, *OTHERS}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Any]]:
    """A pipeline with the guard, the address of its server, and what was audited."""
    llmasos = pytest.importorskip("llmasos")
    from llmasos.system.discovery import Registry

    folder = tmp_path_factory.mktemp("guarded")
    (folder / "made_gold.py").write_text(textwrap.dedent(PLUGINS))
    info = folder / "made_gold-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-gold\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llmasos.guards]\ngold = made_gold\n[llmasos.access]\ngold = made_gold\n")
    config = {
        "models": {"default": {"source": str(folder / "tiny")}, "vectors": {"source": str(folder / "encoder")}},
        "guard": [{"use": "gold"}],
        "access": {"use": "gold"},
        "server": [{"use": "http", "port": 0, "mcp": True}],
    }
    tiny_checkpoint(folder=folder / "tiny")
    tiny_encoder().write(folder / "encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        with llmasos.Pipeline.from_config(config, registry=Registry()) as pipeline, llmasos.Servers(pipeline) as servers:
            yield pipeline, servers.endpoints[0].url, (events := __import__("made_gold").EVENTS)
    assert events.empty(), "no more is audited"


#: Routes that run a task, which is audited as well as the request to its model.
TASKS = {"/v1/tasks/{name}", "/mcp"}
#: Routes that stream where their body says so.
STREAMS = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"}
CASES = [
    (route, {**body, **({"stream": stream} if route in STREAMS else {})})
    for route, bodies in BODIES.items()
    for body in bodies
    for stream in ((False, True) if route in STREAMS else (False,))
]


@pytest.mark.parametrize(("route", "body"), CASES)
def test_no_route_goes_round_a_guard(served: tuple[Any, str, Any], route: str, body: dict[str, Any]) -> None:
    """What it blocks is refused, whole and streamed; nothing is computed, and the audit log tells of the request, without its text."""
    pipeline, url, events = served

    def computed() -> list[Any]:
        return [pipeline.model_named(name).usage().get("finished", 0) for name in ("default", "vectors")]

    before = computed()
    answer = httpx.post(url + route.replace("{name}", "generate"), json=body, headers=HEADERS, timeout=60)
    if route == "/mcp":
        (data,) = (line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: "))
        assert json.loads(data)["result"]["isError"]
    else:
        assert answer.status_code == 400, answer.text
    assert "it is of gold" in answer.text
    told = [events.get(timeout=60) for _ in range(2 if route in TASKS else 1)]
    assert {(event.principal, event.outcome) for event in told} == {("u", "failed")}
    assert "it is of gold" in told[0].details["error"]
    assert GOLD not in f"{answer.text}{told}"
    assert computed() == before
