"""A tiny random model, and the command line in a process of its own, with a home that is not the user's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest

from llmasos_hookspecs.testing import tiny_checkpoint

from .fork_server import ForkServer

COMMAND = [sys.executable, "-c", "from llmasos.cli import main; main()"]


@attrs.frozen
class CommandLine:
    """Runs ``llmasos`` in a folder, with its output piped, as a script would."""

    folder: Path
    server: ForkServer

    @property
    def env(self) -> Mapping[str, str]:
        """The environment of commands that set none of their own."""
        return self.server.env

    def __call__(self, *arguments: str | Path, stdin: str | bytes = "", **env: str) -> subprocess.CompletedProcess[str]:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        words = [*map(str, arguments)]
        if env:
            environment = {**self.env, **env}
            done = subprocess.run(
                [*COMMAND, *words], input=given, capture_output=True, cwd=self.folder, timeout=300, env=environment, check=False
            )
        else:
            done = self.server.run(words, self.folder, given, 300)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str | Path, **streams: int) -> subprocess.Popen[bytes]:
        """The same, going on beside the test, which must wait for it."""
        piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*COMMAND, *map(str, arguments)], cwd=self.folder, env=dict(self.env), **{**piped, **streams})


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``LLMASOS_HOME`` of all commands here, so that an engine is built once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random Llama of 100,000 weights that speaks in bytes."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder, max_position_embeddings=1024)
    return folder


@pytest.fixture(scope="session")
def command_server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """The command line, imported once for the tests of a process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LLMASOS_", "PIP_"))}
    env = {**kept, "LLMASOS_HOME": str(home), "COLUMNS": "200", "PYTHONUTF8": "1", "NO_COLOR": "1"}
    with ForkServer(env, tmp_path_factory.mktemp("streams")) as server:
        yield server


@pytest.fixture
def cli(tmp_path: Path, command_server: ForkServer) -> CommandLine:
    """The command line, in an empty folder."""
    return CommandLine(tmp_path, command_server)


@pytest.fixture
def model(tiny: Path) -> list[str]:
    """The options that choose the tiny model on onnxruntime, which starts fastest."""
    return ["--model", str(tiny), "--loader", "onnx"]
