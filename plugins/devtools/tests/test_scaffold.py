"""``plugins new`` writes packages that are whole: they pass their own tests at once."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from core.tests.cli.fork_server import PYTEST, ForkServer

from llmasos_devtools.new.scaffold import new_plugin
from llmasos_hookspecs import GROUPS, PluginError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "new"
    folder.mkdir()
    return folder


#: Of these kinds, the packages that the guide builds by the same command pass their tests on each change.
_GUIDE = ("accelerator", "command", "suite")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.long) if kind in _GUIDE else kind for kind in GROUPS])
def test_a_new_package_passes_its_own_tests(kind: str, place: Path, fork_server: ForkServer) -> None:
    """A package of each kind passes the conformance kit and its own tests as it was written, and ruff finds nothing."""
    folder = new_plugin(kind, f"my-{kind}", place)
    run = fork_server.said("-q", "-p", "no:cacheprovider", "-p", "no:asyncio", folder=folder, code=PYTEST)
    assert run.returncode == 0, run.stdout[-3000:]
    assert re.search(r"\b[1-9]\d* passed", run.stdout)
    assert "failed" not in run.stdout
    lint = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert lint.returncode == 0, lint.stdout


@pytest.mark.parametrize("kind", GROUPS)
def test_a_new_package_is_complete(kind: str, place: Path) -> None:
    """It has a pyproject with the entry point, a module, a README, a conformance test and CI, and no placeholder is left."""
    folder = new_plugin(kind, "my-part2", place)
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "my-part2"
    assert project["entry-points"] == {GROUPS[kind]: {"my-part2": "my_part2"}}
    for name in ("README.md", ".gitignore", ".github/workflows/ci.yml", "src/my_part2/__init__.py", "src/my_part2/py.typed"):
        assert (folder / name).is_file(), name
    assert "Conformance" in (folder / "tests" / "test_conformance.py").read_text(encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_file():
            assert not re.search(r"@[a-z]+@", path.read_text(encoding="utf-8") + path.name), path
    assert [path.name for path in place.iterdir()] == ["my-part2"]


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("accelerators", "mine", 'no kind of plugin; did you mean "accelerator"'),
        ("gadget", "mine", "The kinds are source, format, loader, accelerator, scheduler, task, suite, command, observer"),
        ("task", "Mine", '"Mine" cannot name a plugin'),
        ("task", "my--task", "cannot name a plugin"),
        ("task", "../mine", "cannot name a plugin"),
        ("task", "1st", "cannot name a plugin"),
        ("task", "class", "cannot name a plugin"),
        ("task", "", "cannot name a plugin"),
        ("task", "json", "the name of a module of Python that is here already; choose another, such as llmasos-app-json"),
        ("loader", "numpy", "the name of an installed module that is here already; choose another, such as llmasos-backend-numpy"),
        ("task", "llmasos-hookspecs", "the name of an installed"),
        ("task", "taken", "the name of a component"),
    ],
)
def test_what_cannot_be_a_plugin_is_refused(kind: str, name: str, sentence: str, place: Path) -> None:
    """An unknown kind or an impossible name is one sentence, and nothing is written."""
    with pytest.raises(PluginError, match=re.escape(sentence)):
        new_plugin(kind, name, place, taken={"taken"})
    assert not list(place.iterdir())


def test_nothing_is_overwritten(place: Path) -> None:
    """A folder that is there already stays as it was."""
    (place / "mine").mkdir()
    with pytest.raises(PluginError, match="is there already"):
        new_plugin("task", "mine", place)
    assert not list((place / "mine").iterdir())
