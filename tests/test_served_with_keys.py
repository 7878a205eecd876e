"""The HTTP server behind API keys: each route with each state of a key, quotas that no burst passes, tenants that share nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

import llmasos
from llmasos_access_keys.keys import KeyLimits
from llmasos_access_keys.store import open_store
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_serve_http.application import Application
from llmasos_serve_http.options import Options

CHAT = "/v1/chat/completions"
PUBLIC = {"/healthz", "/readyz"}
#: A request that each route of POST answers, where the key may use it.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/embeddings": {"input": "a"},
    "/v1/responses": {"input": "a", "max_output_tokens": 1},
    "/api/generate": {"prompt": "a", "options": {"num_predict": 1}},
    "/api/show": {"model": "default"},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1]},
    "/v1/tasks/generate": {"inputs": {"prompt": "a"}},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Application, Any]]:
    """The application, and the store of its keys."""
    folder = tmp_path_factory.mktemp("keys")
    tiny_checkpoint(folder=folder / "tiny")
    config = {
        "model": {"source": str(folder / "tiny")},
        "loader": {"use": "onnx", "threads": 1},
        "access": {"use": "keys", "folder": str(folder / "access")},
        "server": [{"use": "http", "port": 0}],
    }
    with llmasos.Pipeline.from_config(config) as pipeline:
        servers = llmasos.Servers(pipeline)
        application = Application(servers.runtime, Options())
        yield application, open_store(Path(folder / "access"))
        application.close()
        servers.stop()


def ask(application: Application, *requests: tuple[str, str, str, Any]) -> list[httpx.Response]:
    """Method, path, key and body of each; all at once."""

    async def asked() -> list[httpx.Response]:
        transport = httpx.ASGITransport(application.gate)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            shown = [{"authorization": f"Bearer {key}"} if key else {} for _, _, key, _ in requests]
            calls = [
                client.request(method, path, headers=headers, json=body)
                for (method, path, _, body), headers in zip(requests, shown, strict=True)
            ]
            return await asyncio.gather(*calls)

    return asyncio.run(asked())


def chat(text: str = "hi", new: int = 1, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": new, "options": {"num_predict": new}, **more}


def test_every_route_with_every_state_of_a_key(served: tuple[Application, Any]) -> None:
    """Without a key that holds, nothing but health answers; with one, what its role may do."""
    application, store = served
    now = time.time()
    keys = {role: store.keys.create(role, tenant=role, role=role, now=now)[1] for role in ("user", "operator", "admin")}
    revoked, text = store.keys.create("revoked", tenant="t", now=now)
    store.keys.revoke(revoked.id, now=now)
    expired = store.keys.create("expired", tenant="t", now=now - 100, expires=now - 50)[1]
    wrong = {"": "missing", "wrong": "wrong", keys["user"][:-1]: "cut", text: "revoked", expired: "expired"}
    for route in application.routes:
        assert isinstance(route, Route)
        path = route.path.replace("{name:path}", "default").replace("{name}", "generate")
        for method in (route.methods or set()) - {"HEAD"}:
            body = BODIES.get(path, chat()) if method == "POST" else None
            for key, state in wrong.items():
                (answer,) = ask(application, (method, path, key, body))
                assert answer.status_code == (200 if path in PUBLIC else 401), (method, path, state)
            for role, key in keys.items():
                (answer,) = ask(application, (method, path, key, body))
                allowed = 501 if path == "/v1/embeddings" else 200
                assert answer.status_code == (403 if path == "/metrics" and role == "user" else allowed), (method, path, role, answer.text)


def test_a_burst_does_not_pass_a_quota(served: tuple[Application, Any]) -> None:
    """Of 64 requests at once those that fit are answered, the others refused with the time to come again, and no token is lost."""
    application, store = served
    key = store.keys.create("burst", tenant="burst", limits=KeyLimits(tokens_per_day=200), now=time.time())[1]
    answers = ask(application, *[("POST", CHAT, key, chat(new=20, ignore_eos=True))] * 64)
    assert {answer.status_code for answer in answers} == {200, 429}
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers if answer.status_code == 200)
    assert 0 < used <= 200
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(answer.json()["error"]["code"] == "insufficient_quota" and int(answer.headers["retry-after"]) > 0 for answer in refused)


def test_tenants_share_no_cached_prompt(served: tuple[Application, Any]) -> None:
    """The same prompt: none of its tokens come from another tenant's cache, and some from the tenant's own."""
    application, store = served
    first, second = (store.keys.create(name, tenant=name, now=time.time())[1] for name in ("north", "south"))
    body = chat("The otters sleep in the river.")

    def cached(key: str) -> int:
        (answer,) = ask(application, ("POST", CHAT, key, body))
        assert answer.status_code == 200, answer.text
        count: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return count

    assert (cached(first), cached(second)) == (0, 0)
    assert cached(first) > 0
    assert cached(second) > 0
