"""Operations of an API, which a small server answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmasos_app_assistant import Assistant, Rule
from llmasos_app_assistant.options import OpenApiOptions
from llmasos_app_assistant.tools.openapi import OpenApiTools
from llmasos_hookspecs import ConfigError, LLMasOSError

from .scripted_tools import model_of, results

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Shop", "version": "1"},
    "servers": [{"url": "/v1"}],
    "components": {
        "schemas": {
            "Fruit": {"type": "object", "properties": {"name": {"type": "string"}, "like": {"$ref": "#/components/schemas/Fruit"}}},
        },
        "parameters": {"Kilos": {"name": "kilos", "in": "query", "schema": {"type": "integer"}, "description": "How much."}},
    },
    "paths": {
        "/fruit/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {"operationId": "price", "summary": "What fruit costs.", "parameters": [{"$ref": "#/components/parameters/Kilos"}]},
            "delete": {"operationId": "eat"},
        },
        "/fruit": {
            "post": {
                "operationId": "grow",
                "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Fruit"}}}},
            },
        },
        "/flood": {"get": {"operationId": "flood"}},
        "/away": {"get": {"operationId": "away"}},
    },
}


class Shop(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_GET(self) -> None:
        if self.path == "/v1/openapi.json":
            self._say(200, json.dumps(DOCUMENT))
        elif self.path.startswith("/v1/flood"):
            self._say(200, "x" * (2 << 20))
        elif self.path.startswith("/v1/away"):
            self.send_response(302)
            self.send_header("location", "http://127.0.0.1:9/")
            self.end_headers()
        elif "pear" in self.path:
            self._say(404, "no pears")
        else:
            self._say(200, f"GET {self.path} {self.headers.get('x-key')}")

    def do_POST(self) -> None:
        self._say(200, f"POST {self.path} {self.rfile.read(int(self.headers['content-length'])).decode()}")

    def _say(self, status: int, text: str) -> None:
        try:
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())
        except OSError:  # the client had enough
            pass

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_operations_are_called(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments go where the document says; the user's header comes from the environment; a redirect is not followed."""
    monkeypatch.setenv("SHOP_KEY", "key")
    options = OpenApiOptions(document=f"{address}/openapi.json", headers={"x-key": "env:SHOP_KEY"})
    source = OpenApiTools("shop", options, offline=True)
    tools = {tool.name: tool for tool in source.tools()}
    assert list(tools) == ["shop_price", "shop_eat", "shop_grow", "shop_flood", "shop_away"]
    assert [tools[name].repeatable for name in ("shop_price", "shop_eat", "shop_grow")] == [True, False, False]
    assert tools["shop_price"].description == "What fruit costs."
    assert tools["shop_price"].parameters == {
        "type": "object",
        "properties": {"name": {"type": "string"}, "kilos": {"type": "integer", "description": "How much."}},
        "required": ["name"],
        "additionalProperties": False,
    }
    like = tools["shop_grow"].parameters["properties"]["body"]["properties"]["like"]
    assert like["properties"]["name"] == {"type": "string"}
    said = [
        [("shop_price", {"name": "red apple/..", "kilos": 2}), ("shop_grow", {"body": {"name": "plum"}}), ("shop_price", {"name": "pear"})],
        [("shop_price", {"name": ".."}), ("shop_price", {}), ("shop_away", {}), ("shop_flood", {})],
        "Done.",
    ]
    model = model_of(*said)
    assert Assistant(model, sources=[source], policy=[Rule(action="allow")]).ask("Buy.").text == "Done."
    shown = results(model)
    assert shown[:3] == [
        "GET /v1/fruit/red%20apple%2F..?kilos=2 key",
        'POST /v1/fruit {"name":"plum"}',
        "Error: The API answered with status 404: no pears",
    ]
    assert shown[3] == "Error: name is '..', which is no part of a path."
    assert shown[4].startswith("Error: The call leaves out a part of the path")
    assert shown[5].startswith("Error: The API answered with status 302")
    assert "more characters were left out" in shown[6]


def test_a_document_may_send_no_request_elsewhere(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DOCUMENT, "servers", [{"url": "http://127.0.0.2/v1"}])
    with pytest.raises(LLMasOSError, match="set base_url where that is meant"):
        OpenApiTools("shop", OpenApiOptions(document=f"{address}/openapi.json")).tools()
    assert OpenApiTools("shop", OpenApiOptions(document=f"{address}/openapi.json", base_url=address)).tools()
    file = tmp_path / "shop.json"
    file.write_text(json.dumps({**DOCUMENT, "servers": [{"url": "https://shop.example"}]}), encoding="utf-8")
    assert OpenApiTools("shop", OpenApiOptions(document=str(file))).tools()
    with pytest.raises(LLMasOSError, match="nothing beyond this machine"):
        OpenApiTools("shop", OpenApiOptions(document=str(file)), offline=True).tools()
    with pytest.raises(ConfigError, match="nothing beyond this machine"):
        OpenApiTools("shop", OpenApiOptions(document="https://shop.example/openapi.json"), offline=True)


@pytest.mark.parametrize(("text", "told"), [
    ("{", "cannot be read"),
    ("[]", "is no OpenAPI document"),
    ('{"openapi": "2.0", "paths": {}}', "is no OpenAPI document"),
    (
        '{"openapi": "3.0.0", "paths": {"/a": {"get": {"parameters": [{"$ref": "#/nowhere"}]}}}, "servers": [{"url": "http://a"}]}',
        "not there",
    ),
    (
        '{"openapi": "3.0.0", "paths": {"/a": {"get": {"parameters": [{"$ref": "http://b"}]}}}, "servers": [{"url": "http://a"}]}',
        "own parts",
    ),
    ('{"openapi": "3.0.0", "paths": {}}', "must be an address"),
    ('{"openapi": "3.0.0", "paths": [], "servers": [{"url": "http://a"}]}', "has not the form"),
    ('{"openapi": "3.0.0", "paths": {"/a": {"get": {"parameters": [7]}}}, "servers": [{"url": "http://a"}]}', "has not the form"),
    ('{"openapi": "3.0.0", "paths": {}, "servers": [7]}', "has not the form"),
])  # fmt: skip
def test_what_is_no_document_is_told(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "api.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(LLMasOSError, match=told):
        OpenApiTools("shop", OpenApiOptions(document=str(file))).tools()


def test_a_document_in_yaml_is_read(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / "api.yaml"
    file.write_text("openapi: 3.0.0\nservers: [{url: 'http://a'}]\npaths:\n  /a:\n    get: {operationId: look}\n", encoding="utf-8")
    assert [tool.name for tool in OpenApiTools("shop", OpenApiOptions(document=str(file))).tools()] == ["shop_look"]
