"""Core's folders import one way, and its modules and those of libs in no circle: all imports count, those in functions and for type
checkers too."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "core" / "src" / "llmasos"
LIBS = ROOT / "libs"

#: Folder -> the folders of core that it may import, besides itself.
BELOW = {
    "system": set(),
    "checkpoints": set(),
    "acceleration": {"system", "checkpoints"},
    "compose": {"system", "checkpoints", "acceleration"},
    "api": {"system", "checkpoints", "acceleration", "compose"},
    "cli": {"system", "checkpoints", "acceleration", "compose", "api", ""},
}


def modules(source: Path) -> dict[str, Path]:
    """The modules of a package by name."""
    return {
        ".".join((source.name, *path.relative_to(source).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in source.rglob("*.py")
    }


def imports(path: Path, top: str, known: set[str]) -> Iterator[str]:
    """The modules of its package ``top`` that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == top:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == top)


@functools.cache
def graph(source: Path) -> dict[str, set[str]]:
    """Module -> the modules of its package that it imports; with one, Python imports the packages that it lies in."""
    known = modules(source)
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        around = set(packages(name))
        named = set(imports(path, source.name, set(known))) - {name}
        found[name] = named | {package for other in named for package in packages(other)} - around - {name}
    return found


def packages(module: str) -> Iterator[str]:
    """The packages that a module lies in, but for the outermost."""
    while (module := module.rpartition(".")[0]) and "." in module:
        yield module


def folder(module: str) -> str:
    """The folder of core that a module lies in; empty for those at the top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (SOURCE / parts[1]).is_dir() else ""


def test_every_folder_of_core_has_its_place() -> None:
    """A folder that is new must be given its place among the others."""
    found = {path.name for path in SOURCE.iterdir() if path.is_dir() and list(path.glob("**/*.py"))}
    assert found == set(BELOW)


def test_the_folders_of_core_import_downwards_only() -> None:
    """What serves others knows nothing of them."""
    upwards = [
        f"{name} imports {other}"
        for name, others in graph(SOURCE).items()
        for other in others
        if folder(name) and folder(other) != folder(name) and folder(other) not in BELOW[folder(name)]
    ]
    assert upwards == []


@pytest.mark.parametrize("source", [SOURCE, *sorted(LIBS.glob("*/src/*"))], ids=lambda path: path.name)
def test_no_modules_import_one_another_in_a_circle(source: Path) -> None:
    """Each module of core and of the libs can be read, and moved, with those below it alone."""
    try:
        TopologicalSorter(graph(source)).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_a_circle_and_an_import_upwards_would_be_seen() -> None:
    """The graph knows imports in functions and those for type checkers."""
    known = graph(SOURCE)
    assert "llmasos.api.acceleration" in known["llmasos"]  # for type checkers alone
    assert "llmasos.compose.replicas" in known["llmasos.compose.composition"]  # in a function
