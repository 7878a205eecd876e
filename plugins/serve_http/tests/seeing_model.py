"""A tiny random model that reads images, behind a server."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmasos_hookspecs.testing import image_checkpoint

LOADER = """
    from llmasos_hookspecs import Component, hookimpl
    from llmasos_hookspecs.testing import ReferenceImageEngine

    @hookimpl
    def llmasos_component(): return Component(summary="Images, row by row.")

    @hookimpl
    def llmasos_load(checkpoint, context): return ReferenceImageEngine(checkpoint, context.limits)
"""


@contextlib.contextmanager
def seeing_server(folder: Path, module: str) -> Iterator[tuple[Any, str]]:
    """The model and its server's URL; its loader is a plugin, of that module in ``folder``."""
    llmasos = pytest.importorskip("llmasos")
    from llmasos.system.discovery import Registry

    (folder / f"{module}.py").write_text(textwrap.dedent(LOADER))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[llmasos.loaders]\nseeing = {module}\n")
    image_checkpoint(folder / "tiny")
    server = {"use": "http", "port": 0, "temperature": 0.0}
    config = {"model": {"source": str(folder / "tiny")}, "loader": {"use": "seeing"}, "server": [server]}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        with llmasos.Pipeline.from_config(config, registry=Registry()) as pipeline, llmasos.Servers(pipeline) as servers:
            yield pipeline.model, servers.endpoints[0].url
