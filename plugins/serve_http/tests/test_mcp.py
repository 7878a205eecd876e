"""Tasks as tools of the Model Context Protocol, for its own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from llmasos_hookspecs import ConfigError
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import KEY
from llmasos_serve_http.application import Application
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options


@pytest.fixture
def url(runtime: ScriptedRuntime) -> Iterator[str]:
    runtime.open = False
    server = HttpServer(runtime, Options(port=0, mcp=True))
    server.start()
    yield f"{server.endpoints[0].url}/mcp"
    server.stop()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_its_client_lists_and_calls_tools(url: str, mode: Any) -> None:
    """Of either generation of the protocol; what a task refuses, and a tool that is not there, is told in the result."""

    async def use() -> None:
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            (tool,) = (await client.list_tools()).tools
            assert (tool.name, tool.description, tool.input_schema["required"]) == ("repeat", "Repeat a text.", ["text"])
            done = await client.call_tool("repeat", {"text": "hé"})
            assert (done.is_error, done.structured_content) == (False, {"text": "hé"})
            refused = await client.call_tool("repeat", {"words": 1})
            assert (refused.is_error, refused.content[0].text) == (True, "There is only the task repeat, with a text.")
            missing = await client.call_tool("other", {})
            assert (missing.is_error, "tools/list" in missing.content[0].text) == (True, True)

    asyncio.run(use())


def test_a_client_without_a_key_and_what_is_no_message_are_refused(url: str) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert httpx.post(url, json=message).status_code == 401
    shown = {"authorization": f"Bearer {KEY}", "accept": "application/json, text/event-stream"}
    assert httpx.get(url, headers=shown).status_code == 405
    for body in (b"{", b"[]", b"7", b'{"jsonrpc": "1.0"}', b"[" * 50_000):
        answer = httpx.post(url, content=body, headers={**shown, "content-type": "application/json"})
        assert 400 <= answer.status_code < 500, (body[:20], answer.text)
    assert httpx.post(url, json=message, headers=shown).json()["result"]["tools"][0]["name"] == "repeat"


def test_it_is_there_where_an_option_says_so_and_its_library_is(runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    application = Application(runtime, Options())
    assert "/mcp" not in {getattr(route, "path", "") for route in application.routes}
    application.close()
    monkeypatch.setitem(__import__("sys").modules, "mcp_types", None)
    with pytest.raises(ConfigError, match="needs the library mcp"):
        Application(runtime, Options(mcp=True))
