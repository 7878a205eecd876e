"""A tiny random model, and the command line in a process of its own, with a home that is not the user's."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import pytest
from core.tests.forked_children import ForkedChild, ForkedChildren

from llmasos.cli import invoke
from llmasos_hookspecs.testing import tiny_checkpoint

from .fork_server import LLMASOS, ForkServer


@attrs.frozen
class CommandLine:
    """Runs ``llmasos`` in a folder, with its output piped, as a script would."""

    folder: Path
    server: ForkServer
    children: ForkedChildren
    env: Mapping[str, str]

    def __call__(self, *arguments: str | Path, stdin: str | bytes = "", **env: str) -> subprocess.CompletedProcess[str]:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        return self.server.said(*map(str, arguments), folder=self.folder, given=given, env={**self.env, **env})

    def start(self, *arguments: str | Path, code: str = LLMASOS, env: Mapping[str, str] | None = None, **streams: int) -> ForkedChild:
        """The same, or ``code``, going on beside the test, which must wait for it."""
        piped: dict[str, int] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-I", "-c", code, *map(str, arguments)]
        found = self.children.Popen(command, cwd=str(self.folder), env=self.env if env is None else env, **{**piped, **streams})
        assert isinstance(found, ForkedChild)
        return found


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, new_home: Callable[[Path], Path]) -> Path:
    """``LLMASOS_HOME`` of all commands here, so that an engine is built once."""
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random Llama of 100,000 weights that speaks in bytes."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder, max_position_embeddings=1024)
    return folder


@pytest.fixture
def cli(tmp_path: Path, home: Path, fork_server: ForkServer, children: ForkedChildren) -> CommandLine:
    """The command line, in an empty folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LLMASOS_", "PIP_"))}
    env = {**kept, "LLMASOS_HOME": str(home), "COLUMNS": "200", "PYTHONUTF8": "1", "NO_COLOR": "1"}
    return CommandLine(tmp_path, fork_server, children, env)


@pytest.fixture
def here(
    home: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in this process, in the same folder, for what shows in its answer: its start takes longer than what it does."""
    for name in ("LLMASOS_HOME", "COLUMNS", "NO_COLOR"):
        monkeypatch.setenv(name, cli.env[name])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line sets
    monkeypatch.chdir(cli.folder)

    def run(*words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        (cli.folder / "stdin").write_text(stdin)
        with (cli.folder / "stdin").open() as given, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", given)
            code = invoke([*map(str, words)])
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return run


@pytest.fixture
def model(tiny: Path) -> list[str]:
    """The options that choose the tiny model on onnxruntime, which starts fastest."""
    return ["--model", str(tiny), "--loader", "onnx"]
