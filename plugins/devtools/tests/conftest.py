"""The command line in a process of its own, with a home that is not the user's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from core.tests.cli.fork_server import ForkServer

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path, fork_server: ForkServer, new_home: Callable[[Path], Path]) -> RunCli:
    """Runs ``llmasos`` in an empty folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LLMASOS_", "PIP_"))}
    env = {**kept, "LLMASOS_HOME": str(new_home(tmp_path / "home")), "COLUMNS": "200", "PYTHONUTF8": "1", "NO_COLOR": "1"}
    folder = tmp_path / "work"
    folder.mkdir()

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return fork_server.said(*map(str, arguments), folder=folder, env=env)

    return run
