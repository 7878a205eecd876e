"""The application in process and listening, in front of a scripted runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from llmasos_hookspecs import EngineFailed
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import KEY
from llmasos_serve_http.application import Application
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

from .in_process import Client
from .seeing_model import seeing_server

if TYPE_CHECKING:
    import openai


@pytest.fixture
def runtime() -> ScriptedRuntime:
    return ScriptedRuntime()


@pytest.fixture
def start(runtime: ScriptedRuntime) -> Iterator[Callable[..., HttpServer]]:
    """``start(**options)``: a server that listens."""
    made: list[HttpServer] = []

    def start(**options: Any) -> HttpServer:
        made.append(HttpServer(runtime, Options(port=0, **options)))
        made[-1].start()
        return made[-1]

    yield start
    for server in made:
        server.stop()


@pytest.fixture
def client(runtime: ScriptedRuntime) -> Iterator[Callable[..., Client]]:
    """``client(**options)``: a client of an application with these options."""
    made: list[Application] = []

    def make(**options: Any) -> Client:
        made.append(Application(runtime, Options(**options)))
        return Client(made[-1])

    yield make
    for application in made:
        application.close()


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[tuple[Any, str]]:
    """A tiny random model that reads images, and its server's URL."""
    module = f"seeing_for_{request.module.__name__.rpartition('.')[2]}"  # a plugin is imported once, so each has a name of its own
    with seeing_server(tmp_path_factory.mktemp("seeing"), module) as found:
        yield found


@pytest.fixture
def server(runtime: ScriptedRuntime) -> Iterator[HttpServer]:
    runtime.script["hi"] = ("The ", "otters", " sleep.")
    runtime.script["break"] = ("The ", EngineFailed("The engine failed; send it again."))
    found = HttpServer(runtime, Options(port=0))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def openai_client(server: HttpServer) -> Iterator[openai.OpenAI]:
    import openai

    with openai.OpenAI(base_url=f"{server.endpoints[0].url}/v1", api_key=KEY, max_retries=0) as client:
        yield client
