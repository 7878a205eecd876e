"""What the tests of the OpenVINO loader share: a way to load tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmasos_hookspecs import Checkpoint, EngineLimits
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext

Loader = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Loader]:
    """Loads a checkpoint in float32 within some limits; every engine is shut down after the test."""
    engines: list[Any] = []

    def start(checkpoint: Checkpoint, options: dict[str, Any] | None = None, **limits: Any) -> Any:
        plugin = PluginSandbox("llmasos_backend_openvino")
        context = SandboxContext(root=tmp_path, limits=EngineLimits(**{"threads": 1, "max_sequences": 4, **limits}))
        chosen = plugin.options(**{"precision": "f32", **(options or {})})
        engines.append(plugin.call("llmasos_load", checkpoint=checkpoint, options=chosen, context=context))
        return engines[-1]

    yield start
    for engine in engines:
        engine.shutdown()
