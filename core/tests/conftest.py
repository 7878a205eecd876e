"""The two plugins that the design prints, word for word; plugins that a test writes, and pipelines of them."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from core.tests.cli.fork_server import WARM_LLMASOS
from core.tests.forked_children import ForkedChildren
from libs.engine.tests.conftest import hash_engine, make_loop, media_engine, request_of  # noqa: F401 (fixtures)
from libs.residency.tests.conftest import harness  # noqa: F401 (fixture)

from llmasos.api.pipeline import Pipeline
from llmasos.system.discovery import Registry
from llmasos_hookspecs import GROUPS
from llmasos_hookspecs.testing import tiny_checkpoint

LIFO = """
import attrs
from llmasos_hookspecs import Admit, Component, hookimpl

@attrs.frozen
class Options:
    max_sequences: int = 8

class Lifo:
    def admit(self, request, stats): return Admit()
    def rank(self, sequence, now): return (-sequence.request.arrival,)
    def victim(self, running, needy, now): return None
    def quantum(self, sequence, budget): return budget
    def on_commit(self, charges): pass

@hookimpl
def llmasos_component(): return Component(summary="Newest first.", options=Options)

@hookimpl
def llmasos_create_scheduler(options, context): return Lifo()
"""

ROUND = """
import attrs, numpy
from llmasos_hookspecs import Component, hookimpl

@attrs.frozen
class Options: pass

def rounded(tensor): return numpy.round(tensor)

@hookimpl
def llmasos_component(): return Component(summary="Round norm weights.", options=Options)

@hookimpl
def llmasos_accelerate(checkpoint, output, options, context):
    with context.writer(checkpoint, output) as writer:      # copies config, tokenizer, manifest; atomic
        for name in checkpoint.names():
            tensor = checkpoint.tensor(name)                 # numpy array or QuantizedTensor
            writer.add(name, rounded(tensor) if "norm" in name else tensor)
    return writer.result()
"""

LOADER = """
    import attrs
    from llmasos_hookspecs import Component, hookimpl
    from llmasos_hookspecs.testing import ReferenceEngine

    @hookimpl
    def llmasos_component(): return Component(summary="Reference.")

    @hookimpl
    def llmasos_load(checkpoint, context): return ReferenceEngine(checkpoint, context.limits)
"""


@pytest.fixture(scope="session")
def printed_scheduler() -> str:
    """The code of the scheduler ``lifo``."""
    return LIFO


@pytest.fixture(scope="session")
def printed_accelerator() -> str:
    """The code of the accelerator ``round``."""
    return ROUND


def put_first(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """As ``patch.syspath_prepend``, which has the metadata of all that is installed read anew, for a folder that is new."""
    with pytest.MonkeyPatch.context() as kept:
        kept.setattr(importlib, "invalidate_caches", lambda: None)
        patch.syspath_prepend(str(folder))


def adding(folder: Path, patch: pytest.MonkeyPatch, new_home: Callable[[Path], Path]) -> Callable[[str, str, str], Callable[[], Any]]:
    """Puts plugins on ``sys.path`` as installed distributions, beside a home of their own; their modules' names begin with the folder's."""
    site = folder / "site"
    site.mkdir()
    put_first(patch, site)
    patch.setenv("LLMASOS_HOME", str(new_home(folder / "home")))
    patch.delenv("LLMASOS_CONFIG", raising=False)

    def put(kind: str, name: str, code: str) -> Callable[[], Any]:
        module = f"{folder.name}_{name}"
        (site / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        info = site / f"made_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: made-{name}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{GROUPS[kind]}]\n{name} = {module}\n", encoding="utf-8")
        return lambda: sys.modules[module]

    return put


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_home: Callable[[Path], Path]) -> Callable[[str, str, str], Any]:
    """Puts a plugin on ``sys.path`` as an installed distribution: ``add(kind, name, code)``; gives its module, once it is imported."""
    return adding(tmp_path, monkeypatch, new_home)


@pytest.fixture(scope="session")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedChildren]:
    """Starts programs that go on beside a test, as forks of a process that has imported the command line."""
    with ForkedChildren(tmp_path_factory.mktemp("children"), warm=WARM_LLMASOS, watched=True) as found:
        yield found


@pytest.fixture(scope="session")
def reference_loader() -> str:
    """The code of a loader of the reference engine."""
    return LOADER


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder)
    return folder


@pytest.fixture
def pipeline_of(add: Any, tiny: Path) -> Iterator[Callable[..., Pipeline]]:
    """A pipeline of the tiny model on the reference engine; closed afterwards."""
    add("loader", "reference", LOADER)
    made: list[Pipeline] = []

    def make(**more: Any) -> Pipeline:
        made.append(Pipeline.from_config({"model": {"source": str(tiny)}, "loader": "reference", **more}, registry=Registry()))
        return made[-1]

    yield make
    for each in made:
        each.close()
