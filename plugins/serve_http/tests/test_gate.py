"""Hosts, origins, sizes, keys and permissions: what every request passes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute

from llmasos_hookspecs import PluginError
from llmasos_hookspecs.testing.scripted_runtime import KEY, ScriptedRuntime
from llmasos_serve_http.application import Application
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.options import Options
from llmasos_serve_http.routes import Guarded, Service

from .http_clients import chat_body
from .in_process import Client, data

CHAT = "/v1/chat/completions"
Make = Callable[..., Client]


@pytest.mark.parametrize(
    ("host", "options", "status"),
    [
        ("127.0.0.1:8000", {}, 200), ("localhost", {}, 200), ("LOCALHOST.:1", {}, 200), ("[::1]:8000", {}, 200), ("127.9.9.9", {}, 200),
        ("evil.example", {}, 421), ("127.0.0.1.evil.example", {}, 421), ("localhost:8000@evil.example", {}, 421), ("10.0.0.1", {}, 421),
        ("", {}, 421), ("chat.example", {"allowed_hosts": ("chat.example",)}, 200),
        ("CHAT.example:443", {"allowed_hosts": ("chat.example",)}, 200),
        ("other.example", {"allowed_hosts": ("chat.example",)}, 421), ("any.example", {"host": "0.0.0.0"}, 200),
        ("any.example", {"host": "0.0.0.0", "allowed_hosts": ("chat.example",)}, 421),
    ],
)  # fmt: skip
def test_hosts_that_are_not_ours_are_refused(client: Make, host: str, options: dict[str, Any], status: int) -> None:
    """A page whose name was pointed at this machine reaches nothing."""
    assert client(**options).ask("GET", "/v1/models", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "options", "status", "allowed"),
    [
        ("http://127.0.0.1:8000", {}, 200, None),
        ("https://evil.example", {}, 403, None),
        ("null", {}, 403, None),
        ("http://127.0.0.1:3000", {}, 403, None),
        ("http://[bad", {}, 403, None),
        ("https://chat.example", {"allowed_origins": ("https://chat.example/",)}, 200, "https://chat.example"),
        ("https://chat.example.evil", {"allowed_origins": ("https://chat.example",)}, 403, None),
        ("https://any.example", {"allowed_origins": ("*",)}, 200, "https://any.example"),
    ],
)
def test_pages_of_other_origins_are_refused(client: Make, origin: str, options: dict[str, Any], status: int, allowed: str | None) -> None:
    answer = client(**options).post(CHAT, chat_body("hi"), origin=origin)
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (status, allowed)
    asks = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    before = client(**options).ask("OPTIONS", CHAT, headers=asks)
    assert (before.status_code, before.headers.get("access-control-allow-origin")) == (204 if status == 200 else 403, allowed)


@pytest.mark.parametrize(
    ("headers", "tenant"),
    [
        ({"authorization": f"Bearer {KEY}"}, "kit-tenant"), ({"x_api_key": KEY}, "kit-tenant"),
        ({"authorization": f"bearer  {KEY} "}, "kit-tenant"),
        ({"authorization": f"Bearer {KEY}", "x_api_key": KEY}, "kit-tenant"), ({}, "local"),
        ({"authorization": f"Bearer {KEY}", "x_api_key": "other"}, None), ({"authorization": "Bearer wrong"}, None),
        ({"x_api_key": "wrong"}, None), ({"authorization": KEY}, None), ({"authorization": "Bearer "}, None), ({"x_api_key": ""}, None),
    ],
)  # fmt: skip
def test_keys_are_read_from_both_headers(client: Make, runtime: ScriptedRuntime, headers: dict[str, str], tenant: str | None) -> None:
    if tenant is None:
        answer = client().post(CHAT, chat_body("hi"), **headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert runtime.prompts == []
    else:
        data(client().post(CHAT, chat_body("hi"), **headers))
        assert runtime.principals[-1].tenant == tenant


def test_no_route_but_health_and_the_page_answers_without_a_key(client: Make, runtime: ScriptedRuntime) -> None:
    """A key in the address counts as none."""
    runtime.open = False
    made = client()
    routes = [route for route in made.application.routes if isinstance(route, Route)]
    public = {route.path for route in routes if route.endpoint.needs == "public"}
    assert public == {"/healthz", "/readyz", "/", "/console/{name}"}
    for route in routes:
        for method in route.methods or ():
            name = "main.js" if route.path in public else "default"
            path = route.path.replace("{name:path}", "default").replace("{name}", name)
            for query in ("", f"?key={KEY}", f"?api_key={KEY}&access_token={KEY}"):
                status = made.ask(method, path + query).status_code
                assert status == (200 if route.path in public else 401), (method, path, query)


@pytest.mark.parametrize(
    "route",
    [
        Route("/open", lambda _: PlainTextResponse("x")),
        Mount("/all", app=PlainTextResponse("x")),
        WebSocketRoute("/socket", lambda _: None),
        "guarded, any method",
    ],
)
def test_a_route_without_a_permission_stops_the_server_from_being_made(runtime: ScriptedRuntime, route: Any) -> None:
    if isinstance(route, str):
        route = Route("/any", Guarded(None, "use", OpenAIDialect(), None))  # type: ignore[arg-type]  # is never called
    with pytest.raises(PluginError, match="declares no permission"):
        Application(runtime, Options(), lambda _: [route])


def test_a_route_of_another_plugin_is_behind_its_permission(runtime: ScriptedRuntime) -> None:
    async def told(call: Any) -> None:
        await call.reply({"who": call.known.tenant})

    def made(needs: Any) -> Client:
        def routes(service: Service) -> list[Route]:
            return [Route("/more", Guarded(service, needs, OpenAIDialect(), told), methods=["GET"])]

        return Client(Application(runtime, Options(), routes))

    assert data(made("inspect").ask("GET", "/more")) == {"who": "local"}
    refused = made("administer").ask("GET", "/more")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400), (b"{", {}, 400), (b"[]", {}, 400), (b"null", {}, 400), (b'"x"', {}, 400), (b"\xff\xfe", {}, 400),
        (b'{"a": NaN}', {}, 400), (b'{"a": "\\ud800"}', {}, 400), (b"[" * 100_000, {}, 400),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, {}, 400),
        (b"{}", {"content_type": "text/plain"}, 415), (b"a=b", {"content_type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"content_type": "application/json; charset=utf-8"}, 400), (b" " * 1001, {}, 413),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_bodies_that_are_no_request_are_refused(client: Make, path: str, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = client(max_body=1000 if status == 413 else 1 << 20).raw(path, body, **headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_what_is_not_there_and_methods_that_are_not_taken(client: Make) -> None:
    for method, path, status in (("GET", "/v1", 404), ("GET", "/v1/model", 404), ("GET", CHAT, 405), ("DELETE", "/v1/models", 405)):
        answer = client().ask(method, path)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    assert client().ask("GET", CHAT).headers["allow"] == "POST"


def test_each_answer_has_an_id(client: Make) -> None:
    """The client's own where it is one; the completion has it too."""
    answer = client().post(CHAT, chat_body("hi"), x_request_id="mine-1")
    assert (answer.headers["x-request-id"], answer.json()["id"]) == ("mine-1", "chatcmpl-mine-1")
    for bad in ("a b", "x" * 65, "<script>"):
        assert len(client().post(CHAT, chat_body("hi"), x_request_id=bad).headers["x-request-id"]) == 32
    assert client().ask("GET", "/nowhere").headers["x-request-id"]


def test_health_and_readiness(client: Make, runtime: ScriptedRuntime) -> None:
    made = client()
    assert data(made.ask("GET", "/healthz")) == {"status": "ok"}
    assert data(made.ask("GET", "/readyz")) == {"status": "ready"}
    runtime.draining = True
    assert made.ask("GET", "/readyz").status_code == 503
    runtime.draining = False
    made.application.gate.closed = True
    assert made.ask("GET", "/readyz").status_code == 503
    assert made.ask("GET", "/healthz").status_code == 200
    refused = made.post(CHAT, chat_body("hi"))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


def test_models(client: Make) -> None:
    model = {"id": "default", "object": "model", "created": 0, "owned_by": "llmasos", "max_model_len": 2048}
    assert data(client().ask("GET", "/v1/models")) == {"object": "list", "data": [model]}
    assert data(client().ask("GET", "/v1/models/default")) == model
    assert client().ask("GET", "/v1/models/other/one").status_code == 404
