"""Nothing of the folder that a command runs in is run: not by the command, and by no child interpreter that it starts."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Modules that a child interpreter or a framework would import, were they found first.
DECOYS = ("attrs", "attr", "numpy", "pluggy", "typer", "torch", "onnxruntime", "tokenizers", "json", "sitecustomize", "llmasos_hookspecs")


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """A folder whose modules leave a mark where any of them is imported."""
    folder = tmp_path / "decoys"
    folder.mkdir()
    mark = f"open({str(folder / 'ran')!r}, 'a').write(__name__ + chr(10))\n"
    for name in DECOYS:
        (folder / f"{name}.py").write_text(mark)
    for name in ("pip", "llmasos", "pytest"):
        (folder / name).mkdir()
        for file in ("__init__.py", "__main__.py"):
            (folder / name / file).write_text(mark)
    return folder


COMMANDS = {
    "pull from the index": ["models", "pull", "pypi:no-such-model-for-decoys"],
    "install a plugin": ["plugins", "install", "no-such-plugin-for-decoys", "--yes"],
    "list plugins": ["plugins", "list"],
    "show the config": ["config", "show"],
    "check a plugin": ["plugins", "check", "scheduler:fifo"],
}


#: They start the same kinds of child as the others, of pip and of what is described apart, or none.
LONG = ("install a plugin", "check a plugin", "show the config")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in COMMANDS])
def test_a_command_runs_nothing_of_its_working_folder(name: str, decoys: Path) -> None:
    command = [str(Path(sys.executable).with_name("llmasos")), *COMMANDS[name]]
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        command,
        cwd=decoys,
        env={**os.environ, **offline},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not (decoys / "ran").exists(), (decoys / "ran").read_text()
    assert "Traceback" not in done.stderr


def test_python_m_takes_the_folder_off_the_path_before_anything_else(tmp_path: Path) -> None:
    """What Python's own -m does before it hands over is Python's; ``python -P -m llmasos`` has none of it."""
    for name in ("attrs", "typer", "numpy", "llmasos_hookspecs"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a decoy ran')\n")
    command = [sys.executable, "-m", "llmasos", "plugins", "list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def interpreters(tree: ast.AST) -> Iterator[ast.List]:
    """Each list that begins with ``sys.executable``: the command line of a child interpreter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable":
            yield node


def test_every_child_interpreter_of_the_source_is_isolated() -> None:
    """One place of core builds command lines, and one that it shares with plugins those of pip; what else starts one isolates it."""
    builder = ROOT / "libs/isolation/src/llmasos_isolation/children.py"
    of_pip = ROOT / "libs/fetch_kit/src/llmasos_fetch_kit/pip.py"
    sources = [
        path
        for part in ("hookspecs", "core", "libs", "plugins")
        for path in (ROOT / part).rglob("src/**/*.py")
        if "templates" not in path.parts
    ]
    loose = []
    for path in sources:
        text = path.read_text(encoding="utf-8")
        if "sys.executable" not in text:
            continue
        for command in interpreters(ast.parse(text)):
            flag = ast.unparse(command.elts[1])
            if flag not in ("'-I'", "'-P'") and path != of_pip:
                loose.append(f"{path.relative_to(ROOT)}:{command.lineno}")
    assert loose == []
    for path, flags in ((builder, ["'-I'"]), (of_pip, ["*flags"])):
        found = list(interpreters(ast.parse(path.read_text(encoding="utf-8"))))
        assert [ast.unparse(command.elts[1]) for command in found] == flags
