"""docs/authoring.md is true: its commands run, its files pass their tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from core.tests.cli.fork_server import PYTEST, ForkServer

GUIDE = Path(__file__).parents[3] / "docs" / "authoring.md"
_FILE = re.compile(r"<!-- file: (?P<path>\S+) -->\n```python\n(?P<text>.*?)```", re.DOTALL)
_COMMAND = re.compile(r"^\$ (llmasos plugins new .+)$", re.MULTILINE)
_PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def guide() -> str:
    return GUIDE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workplace(guide: str, tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> Path:
    """The guide's commands run, and its files written over what they made."""
    folder = tmp_path_factory.mktemp("guide")
    for command in _COMMAND.findall(guide):
        done = fork_server.said(*command.split()[1:], folder=folder)
        assert done.returncode == 0, done.stderr
    for found in _FILE.finditer(guide):
        assert (folder / found["path"]).is_file(), f"The guide replaces {found['path']}, which its command did not make."
        (folder / found["path"]).write_text(found["text"], encoding="utf-8")
    return folder


PACKAGES = ["my-clip", "my-count", "my-flatness", "my-raw", "my-turns"]


def test_the_guide_builds_its_packages(workplace: Path) -> None:
    """An accelerator, a command, a suite, a format and a scheduler come out of its commands."""
    assert sorted(path.name for path in workplace.iterdir()) == PACKAGES


#: Of these kinds, whose kits are the longest, the scaffold's own packages pass the same tests on each change.
_LONG = ("my-raw", "my-turns")


@pytest.mark.parametrize("package", [pytest.param(each, marks=pytest.mark.long if each in _LONG else ()) for each in PACKAGES])
def test_the_packages_of_the_guide_pass_their_tests(package: str, workplace: Path, fork_server: ForkServer) -> None:
    """With the guide's files each passes the conformance kit and its own tests."""
    run = fork_server.said("-q", "-p", "no:cacheprovider", folder=workplace / package, code=PYTEST)
    assert run.returncode == 0, run.stdout[-3000:]
    assert re.search(r"\b[1-9]\d* passed", run.stdout)


def test_every_python_block_compiles(guide: str) -> None:
    """Blocks that belong to no file are sound Python too, and those that make a class can be run."""
    blocks = _PYTHON.findall(guide)
    assert len(blocks) >= 7
    for block in blocks:
        compile(block, "authoring.md", "exec")
    exec(compile(next(block for block in blocks if "TestNewestFirst" in block), "authoring.md", "exec"), {"__name__": "guide"})


def test_the_guide_names_every_hook_of_its_table(guide: str) -> None:
    """Each hook that the table names is a hook of the contract, with those parameters."""
    import inspect

    from llmasos_hookspecs import GROUPS, specs

    for group in GROUPS.values():
        assert f"`{group}`" in guide
    for name, parameters in re.findall(r"`(llmasos_\w+)\(([^)]*)\)`", guide):
        expected = ", ".join(inspect.signature(getattr(specs, name)).parameters)
        assert parameters in ("", expected), name
