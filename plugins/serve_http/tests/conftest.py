"""The application in process, in front of a scripted runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.application import Application
from llmasos_serve_http.options import Options

from .in_process import Client


@pytest.fixture
def runtime() -> ScriptedRuntime:
    return ScriptedRuntime()


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
