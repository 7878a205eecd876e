"""The HTTP server behind API keys: each route with each state of a key, quotas that no burst passes, tenants that share nothing."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

import llmasos
from llmasos.system.discovery import Registry
from llmasos_access_keys.keys import KeyLimits
from llmasos_access_keys.store import Store, open_store
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint

CHAT = "/v1/chat/completions"
PUBLIC = {"/healthz", "/readyz", "/", "/console/main.js"}
#: What a key that may ask is answered where it is not 200: the loader has no embeddings, a recording comes as a form, and there is
#: nothing of that id.
ANSWERED = {
    "/v1/embeddings": 501,
    "/v1/rerank": 501,
    "/v1/audio/transcriptions": 415,
    "/admin/requests/7/cancel": 404,
    "/admin/keys/7/rotate": 400,
    "/admin/keys/7/revoke": 400,
    "/console/conversations/open": 400,
    "/console/conversations/delete": 400,
}
#: A request that each route of POST answers, where the key may use it.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/embeddings": {"input": "a"},
    "/v1/rerank": {"query": "a", "documents": ["a"]},
    "/v1/audio/speech": {"input": "a"},
    "/v1/responses": {"input": "a", "max_output_tokens": 1},
    "/api/generate": {"prompt": "a", "options": {"num_predict": 1}},
    "/api/show": {"model": "default"},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1]},
    "/v1/tasks/generate": {"inputs": {"prompt": "a"}},
    "/console/conversations": {"messages": [{"role": "user", "content": "a"}]},
    "/console/conversations/search": {"query": "a"},
    "/console/conversations/open": {"label": "7"},
    "/console/conversations/delete": {"label": "7"},
    "/admin/keys": {"label": "another"},
    "/admin/scheduler": {"use": "fifo"},
    "/admin/models/default/scheduler": {"use": "fifo"},
}


#: A server plugin of another author, built on this one, with routes of its own.
PLUGIN = """
    from llmasos_hookspecs import Component, hookimpl
    from llmasos_serve_http.dialect import OpenAIDialect
    from llmasos_serve_http.listening import HttpServer
    from llmasos_serve_http.options import Options
    from llmasos_serve_http.routes import Guarded
    from starlette.routing import Route

    async def told(call): await call.reply({"who": call.known.tenant})

    def routes(service):
        for needs in ("use", "inspect", "administer"):
            yield Route(f"/more/{needs}", Guarded(service, needs, OpenAIDialect(), told), methods=["GET", "POST"])
        yield Route("/more/of/{name}", Guarded(service, "administer", OpenAIDialect(), told, resource="task:{name}"), methods=["POST"])

    @hookimpl
    def llmasos_component(): return Component(summary="HTTP and more.", options=Options)

    @hookimpl
    def llmasos_create_server(runtime, options): return HttpServer(runtime, options, routes)
"""


@attrs.frozen
class Served:
    """A server that listens, its routes, and the store of its keys."""

    url: str
    routes: Sequence[Any]
    store: Store


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, new_home: Callable[[Path], Path]) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("keys")
    info = folder / "site" / "made_more_http-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "site" / "made_more_http.py").write_text(textwrap.dedent(PLUGIN), encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-more-http\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[llmasos.servers]\nmore-http = made_more_http\n", encoding="utf-8")
    tiny_checkpoint(folder=folder / "tiny")
    config = {
        "model": {"source": str(folder / "tiny")},
        "loader": {"use": "onnx", "threads": 1},
        "access": {"use": "keys", "folder": str(folder / "access")},
        "speaker": "espeak",  # which starts sooner than a neural one
        "server": [{"use": "more-http", "port": 0}],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMASOS_HOME", str(new_home(folder / "home")))
        patch.syspath_prepend(str(folder / "site"))
        with (
            llmasos.Pipeline.from_config(config, registry=Registry()) as pipeline,
            llmasos.Servers(pipeline, read_again=lambda: pipeline.config) as servers,
        ):
            ((server, _),) = servers._servers
            yield Served(servers.endpoints[0].url, server.routes, open_store(folder / "access"))


def shown(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def ask(served: Served, *requests: tuple[str, str, str, Any]) -> list[httpx.Response]:
    """Method, path, key and body of each; all at once."""

    async def asked() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=served.url, timeout=60, verify=False) as client:
            calls = [client.request(method, path, headers=shown(key), json=body) for method, path, key, body in requests]
            return await asyncio.gather(*calls)

    return asyncio.run(asked())


def chat(text: str = "hi", new: int = 1, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": new, "options": {"num_predict": new}, **more}


def may(role: str, needs: str, resource: str) -> bool:
    """What the table in the README of the keys says."""
    order = ("user", "operator", "admin")
    least = {"public": "user", "use": "user", "inspect": "operator", "administer": "admin" if resource == "server" else "operator"}
    return order.index(role) >= order.index(least[needs])


def test_every_route_with_every_role_and_every_state_of_a_key(served: Served) -> None:
    """Without a key that holds, nothing but health answers; with one, what its role may do, on the routes of another plugin too."""
    store, now = served.store, time.time()
    keys = {role: store.keys.create(role, tenant=role, role=role, now=now)[1] for role in ("user", "operator", "admin")}
    wrong = {"missing": "", "unknown": "wrong"}
    for role, key in keys.items():
        revoked, wrong[f"revoked {role}"] = store.keys.create("revoked", tenant="t", role=role, now=now)
        store.keys.revoke(revoked.id, now=now)
        wrong[f"expired {role}"] = store.keys.create("expired", tenant="t", role=role, now=now - 100, expires=now - 50)[1]
        wrong[f"cut {role}"] = key[:-1]
    seen = set()
    # httpx takes longer for a request than the server does.
    with contextlib.closing(http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=60)) as client:

        def status(method: str, path: str, key: str, body: Any) -> tuple[int, bytes]:
            said = {**shown(key), **({} if body is None else {"content-type": "application/json"})}
            client.request(method, path, None if body is None else json.dumps(body), said)
            answer = client.getresponse()
            return answer.status, answer.read()

        for route in served.routes:
            name = "main.js" if route.path.startswith("/console/") else "generate"
            path = route.path.replace("{name:path}", "default").replace("{name}", name).replace("{id}", "7")
            for method in route.methods - {"HEAD"}:
                body = BODIES.get(path, chat()) if method == "POST" else None
                for state, key in wrong.items():
                    code, text = status(method, path, key, body)
                    assert code == (200 if path in PUBLIC else 401), (method, path, state, text)
                for role, key in keys.items():
                    code, text = status(method, path, key, body)
                    expected = ANSWERED.get(path, 200) if may(role, route.endpoint.needs, route.endpoint.resource) else 403
                    assert code == expected, (method, path, role, text)
                    seen.add((route.endpoint.needs, expected))
    assert {("administer", 403), ("administer", 200), ("inspect", 403), ("inspect", 200), ("use", 200), ("public", 200)} <= seen


def test_an_operator_changes_the_models_of_its_list_and_no_other(served: Served) -> None:
    """And what was changed, and what was refused, is in the log."""
    now = time.time()
    key, text = served.store.keys.create("ops", tenant="ops", role="operator", models=["default"], now=now)
    other = served.store.keys.create("other", tenant="ops", role="operator", models=["other"], now=now)[1]
    for verb, state, pinned in (
        ("pin", "loaded", True),
        ("unpin", "loaded", False),
        ("unload", "not loaded", False),
        ("load", "loaded", False),
    ):
        (answer,) = ask(served, ("POST", f"/admin/models/default/{verb}", text, None))
        assert answer.status_code == 200, answer.text
        (model,) = answer.json()["data"]
        assert (model["state"], model["pinned"]) == (state, pinned)
        assert "path" not in model
        (refused,) = ask(served, ("POST", f"/admin/models/default/{verb}", other, None))
        assert refused.status_code == 403
    (answer,) = ask(served, ("GET", "/admin/models", other, None))
    assert answer.json()["data"] == []
    (answer,) = ask(served, ("POST", "/admin/models/default/scheduler", text, {"use": "fifo", "options": {"max_sequences": 3}}))
    assert answer.json()["data"][0]["scheduler"] == "fifo"
    (answer,) = ask(served, ("POST", "/admin/scheduler", text, {"use": "fifo"}))
    assert answer.status_code == 403
    done = [(event["action"], event["outcome"]) for _, event in served.store.log.events() if event["principal"] == key.id]
    assert {("pin_model", "done"), ("unload_model", "done"), ("load_model", "done"), ("use_scheduler", "done")} <= set(done)


def test_a_burst_does_not_pass_a_quota(served: Served) -> None:
    """Of 64 requests at once those that fit are answered, the others refused with the time to come again, and no token is lost."""
    store = served.store
    key = store.keys.create("burst", tenant="burst", limits=KeyLimits(tokens_per_day=200), now=time.time())[1]
    answers = ask(served, *[("POST", CHAT, key, chat(new=20, ignore_eos=True))] * 64)
    assert {answer.status_code for answer in answers} == {200, 429}
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers if answer.status_code == 200)
    assert 0 < used <= 200
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(answer.json()["error"]["code"] == "insufficient_quota" and int(answer.headers["retry-after"]) > 0 for answer in refused)


def test_tenants_share_no_cached_prompt(served: Served) -> None:
    """The same prompt: none of its tokens come from another tenant's cache, and some from the tenant's own."""
    store = served.store
    first, second = (store.keys.create(name, tenant=name, now=time.time())[1] for name in ("north", "south"))
    body = chat("The otters sleep in the river.")

    def cached(key: str) -> int:
        (answer,) = ask(served, ("POST", CHAT, key, body))
        assert answer.status_code == 200, answer.text
        count: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return count

    assert (cached(first), cached(second)) == (0, 0)
    assert cached(first) > 0
    assert cached(second) > 0
