"""What the end-to-end tests share: the real model, loaded once for each file, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from core.tests.cli.fork_server import ForkServer

import llmasos
from llmasos.api.model import LanguageModel


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Iterator[LanguageModel]:
    """SmolLM2 on onnxruntime in fp32, so that what it says is exact and depends on no kernel's rounding."""
    with llmasos.load_model("smollm2", loader={"use": "onnx", "precision": "fp32"}) as model:
        yield model


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def llmasos_cli(tmp_path: Path, fork_server: ForkServer) -> Run:
    """Runs ``llmasos`` with its output piped, as a script would."""

    def run(*arguments: str, stdin: str = "", cwd: Path = tmp_path, **env: str) -> subprocess.CompletedProcess[str]:
        return fork_server.said(*arguments, folder=cwd, given=stdin.encode(), env={**os.environ, "PYTHONUTF8": "1", **env})

    return run
