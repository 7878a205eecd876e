"""Tasks as tools of the Model Context Protocol, for its own client."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest

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
    from mcp.client.client import Client
    from mcp.client.streamable_http import streamable_http_client

    async def use() -> None:
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            tool, _ = (await client.list_tools()).tools
            assert (tool.name, tool.description, tool.input_schema["required"]) == ("repeat", "Repeat a text.", ["text"])
            done = await client.call_tool("repeat", {"text": "hé"})
            assert (done.is_error, done.structured_content) == (False, {"text": "hé"})
            refused = await client.call_tool("repeat", {"words": 1})
            assert (refused.is_error, refused.content[0].text) == (True, "There are only the tasks repeat and count, with a text.")
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
    (event,) = [line for line in httpx.post(url, json=message, headers=shown).text.splitlines() if line.startswith("data: ")]
    assert json.loads(event.removeprefix("data: "))["result"]["tools"][0]["name"] == "repeat"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_progress_is_told_to_a_client_that_asks(url: str, runtime: ScriptedRuntime, mode: Any) -> None:
    """Tokens so far, which grow; with the text where the task can stream; all before the result, which is the same."""
    from mcp.client.client import Client
    from mcp.client.streamable_http import streamable_http_client

    gates = [threading.Event() for _ in range(3)]
    texts = ["The ", "otters", " sleep."]
    runtime.script["hi"] = tuple(piece for pair in zip(texts, gates, strict=True) for piece in pair)

    async def use(name: str) -> tuple[list[tuple[float, str | None]], Any]:
        told: list[tuple[float, str | None]] = []
        for gate in gates:
            gate.clear()

        async def progress(done: float, _total: float | None, message: str | None) -> None:
            told.append((done, message))
            gates[len(told) - 1].set()  # the next piece comes once this one was told

        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            return told, (await client.call_tool(name, {"text": "hi"}, progress_callback=progress)).structured_content

    told, output = asyncio.run(use("repeat"))
    assert (told, output) == ([(1.0, "The "), (2.0, "otters"), (3.0, " sleep.")], {"text": "The otters sleep."})
    told, output = asyncio.run(use("count"))
    assert (told, output) == ([(1.0, None), (2.0, None), (3.0, None)], {"words": 3})


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_tool_whose_client_has_left_ends(url: str, runtime: ScriptedRuntime, mode: Any) -> None:
    from mcp.client.client import Client
    from mcp.client.streamable_http import streamable_http_client

    gate = threading.Event()
    runtime.script["hi"] = ("The ", gate)

    async def leave() -> None:
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            calling = asyncio.create_task(client.call_tool("repeat", {"text": "hi"}))
            while not runtime.runs:
                await asyncio.sleep(0.01)
            calling.cancel()
            await asyncio.wait([calling])

    try:
        asyncio.run(leave())
        assert runtime.runs[0].wait(30)
    finally:
        gate.set()


def test_it_is_there_where_an_option_says_so_and_its_library_is(runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    application = Application(runtime, Options())
    assert "/mcp" not in {getattr(route, "path", "") for route in application.routes}
    application.close()
    monkeypatch.setitem(__import__("sys").modules, "mcp_types", None)
    with pytest.raises(ConfigError, match="needs the library mcp"):
        Application(runtime, Options(mcp=True))
