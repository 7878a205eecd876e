"""Tools of real servers of the Model Context Protocol: over stdio, over HTTP, and of our own server."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmasos_app_assistant import Assistant, Bounds, Rule
from llmasos_app_assistant.options import McpOptions
from llmasos_app_assistant.tools.mcp import McpTools
from llmasos_hookspecs import ConfigError, LLMasOSError
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import KEY

from .scripted_tools import model_of, results

COMMAND = (sys.executable, str(Path(__file__).with_name("mcp_server.py")))


@pytest.fixture(scope="module")
def stdio() -> Iterator[McpTools]:
    """The server in a process of its own, which is started when its tools are first asked for."""
    given = {"env": {"GIVEN": "given"}, "pass_env": ("PASSED",)}
    found = McpTools("shop", McpOptions(command=COMMAND, tools=("price", "sell", "wait", "die", "secret"), repeatable=("price",), **given))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PASSED", "passed")
        environment.setenv("HIDDEN", "hidden")
        found.tools()
    yield found
    found.close()


@pytest.fixture(scope="module")
def http() -> Iterator[McpTools]:
    """The same server over streamable HTTP, on a thread of this process."""
    import uvicorn

    from .mcp_server import server

    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="error", lifespan="on"))
    thread = threading.Thread(target=lambda: running.run(sockets=[listening]), daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    found = McpTools("shop", McpOptions(url=f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", tools=("price", "sell", "wait")))
    yield found
    found.close()
    running.should_exit = True
    thread.join(30)


def used(source: McpTools, *said: Any, **bounds: Any) -> list[str]:
    """What the model is shown of its calls."""
    model = model_of(*said, "Done.")
    assistant = Assistant(model, sources=[source], policy=[Rule(action="allow")], bounds=Bounds(**bounds))
    assert assistant.ask("Buy fruit.").text == "Done."
    return results(model)


@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_tools_of_a_server_are_called(request: pytest.FixtureRequest, transport: str) -> None:
    """Its schemas are shown, its results and errors told, calls of one step are in progress at once, and one that hangs is given up."""
    source: McpTools = request.getfixturevalue(transport)
    tools = {tool.name: tool for tool in source.tools()}
    assert list(tools)[:3] == ["shop_price", "shop_sell", "shop_wait"]
    price = tools["shop_price"]
    assert (price.description, price.repeatable, price.decision) == ("What fruit costs.", transport == "stdio", "ask")
    assert price.parameters["required"] == ["fruit"]
    assert price.parameters["properties"]["fruit"]["description"] == "Which fruit."
    shown = used(
        source,
        [("shop_price", {"fruit": "apple", "kilos": 2}), ("shop_price", {"fruit": "pear"}), ("shop_sell", {"fruit": "apple"})],
        [("shop_price", {"fruit": "apple"}), ("shop_price", {"fruit": "apple"})],
    )
    assert shown[0] == "6 euros"
    assert shown[1].startswith("Error: ")
    assert "there is no pear" in shown[1]
    assert '"sold"' in shown[2].replace("sold:", '"sold"')
    assert shown[3:] == ["3 euros", "3 euros"]
    (late,) = used(source, [("shop_wait", {})], call_seconds=0.3)
    assert late.startswith("Error: ")
    assert used(source, [("shop_price", {"fruit": "apple"})]) == ["3 euros"]


def test_a_command_sees_of_the_environment_what_it_is_given(stdio: McpTools) -> None:
    assert used(stdio, [("shop_secret", {})]) == ["given passed None"]


def test_a_server_that_ended_is_started_again(stdio: McpTools) -> None:
    """Its last call failed, and whether it was done is not known; the next goes to the new one."""
    before = stdio.tools()
    shown = used(stdio, [("shop_die", {})], [("shop_price", {"fruit": "apple"})])
    assert shown == ["Error: The server shop ended during the call, and whether it was done is not known.", "3 euros"]
    assert [tool.name for tool in stdio.tools()] == [tool.name for tool in before]


def test_a_server_that_does_not_start_is_told_with_its_last_words() -> None:
    with contextlib.closing(McpTools("shop", McpOptions(command=(*COMMAND, "--broken")))) as source, pytest.raises(LLMasOSError) as told:
        source.tools()
    assert 'The server of tools "shop" cannot be reached' in str(told.value)
    assert "no fruit today" in str(told.value)
    missing = McpTools("shop", McpOptions(command=("no-such-command-of-fruit",)))
    with pytest.raises(LLMasOSError, match="cannot be reached"):
        missing.tools()


def test_options_that_name_no_server_are_refused() -> None:
    for options in ({}, {"command": ("a",), "url": "http://127.0.0.1/mcp"}):
        with pytest.raises(ValueError, match="and not both"):
            McpOptions(**options)
    with pytest.raises(ConfigError, match="must be an address"):
        McpTools("shop", McpOptions(url="ftp://shop"))
    with pytest.raises(ConfigError, match="nothing beyond this machine"):
        McpTools("shop", McpOptions(url="https://shop.example/mcp"), offline=True)
    McpTools("shop", McpOptions(url="http://127.0.0.1:1/mcp"), offline=True)


def test_tools_of_our_own_server_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks are tools of its client, which shows a key of the environment."""
    serving = pytest.importorskip("llmasos_serve_http.listening")
    options = pytest.importorskip("llmasos_serve_http.options")
    runtime = ScriptedRuntime()
    runtime.open = False
    ours = serving.HttpServer(runtime, options.Options(port=0, mcp=True))
    ours.start()
    monkeypatch.setenv("SHOP_KEY", f"Bearer {KEY}")
    address = McpOptions(url=f"{ours.endpoints[0].url}/mcp", headers={"authorization": "env:SHOP_KEY"})
    try:
        with contextlib.closing(McpTools("ours", address)) as source:
            shown = used(source, [("ours_repeat", {"text": "hé"}), ("ours_repeat", {"words": 1})])
        assert shown[0] == '{"text":"hé"}'
        assert shown[1].startswith("Error: ")
        assert "with a text" in shown[1]
        monkeypatch.setenv("SHOP_KEY", "Bearer another")
        with contextlib.closing(McpTools("ours", address)) as source, pytest.raises(LLMasOSError, match="cannot be reached"):
            source.tools()
    finally:
        ours.stop()
