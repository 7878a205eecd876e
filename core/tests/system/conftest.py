"""A home of its own for each test, and a folder on ``sys.path`` into which distributions can be put without installing them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from core.tests.conftest import put_first

from llmasos.system.discovery import Registry
from llmasos_hookspecs import GROUPS
from llmasos_model_store.store import Store

SCHEDULER = """
    import attrs
    from llmasos_hookspecs import Admit, Component, hookimpl

    @attrs.frozen
    class Options:
        max_sequences: int = attrs.field(default=8, validator=attrs.validators.ge(1), metadata={"help": "Sequences at once."})
        order: str = attrs.field(default="new", metadata={"choices": ("new", "old")})

    @hookimpl
    def llmasos_component():
        return Component(summary="A scheduler of the tests.", options=Options)

    @attrs.frozen
    class Mine:
        options: object
        name: str

        def admit(self, request, stats): ...
        def rank(self, sequence, now): ...
        def victim(self, running, needy, now): ...
        def quantum(self, sequence, budget): ...
        def on_commit(self, charges): ...

    @hookimpl
    def llmasos_create_scheduler(options, context):
        return Mine(options, context.name)
"""


class Site:
    """A folder on ``sys.path`` that stands for site-packages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.registry = Registry()

    def add(
        self,
        distribution: str,
        kind: str,
        name: str,
        code: str = SCHEDULER,
        *,
        version: str = "1.0",
        module: str | None = None,
        requires: tuple[str, ...] = (),
        requires_python: str = "",
        summary: str = "",
    ) -> str:
        """Install a distribution with one component; returns the name of its module. Without code there is no module."""
        module = module or distribution.replace("-", "_")
        if code:
            (self.path / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        folder = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        lines += [f"Requires-Python: {requires_python}"] if requires_python else []
        lines += [f"Summary: {summary}"] if summary else []
        (folder / "METADATA").write_text("\n".join(lines) + "\n\nA readme.\nVersion: 9.9\n", encoding="utf-8")
        (folder / "entry_points.txt").write_text(f"[{GROUPS[kind]}]\n{name} = {module}\n", encoding="utf-8")
        self.registry.rescan()
        return module


@pytest.fixture
def scheduler_code() -> str:
    """The module of a scheduler whose hook answers with its options and its name."""
    return textwrap.dedent(SCHEDULER)


@pytest.fixture(autouse=True)
def home(own_home: Path) -> Path:
    """``LLMASOS_HOME``, and a working folder that is not the user's."""
    return own_home


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path, new_home: Callable[[Path], Path]) -> Iterator[Site]:
    new_home(home)
    path = tmp_path / "site"
    path.mkdir()
    put_first(monkeypatch, path)
    before = set(sys.modules)
    yield Site(path)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(path)):
            del sys.modules[name]


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home / "data")
