"""A disk that is full: one sentence, nothing half-written is left, and what was there before stays.

A limit to the size of files stands for the disk: the call that passes it fails as it does where no room is left.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from core.tests.cli.fork_server import ForkServer

from llmasos_conversations.store import ConversationStore
from llmasos_hookspecs import AccelerationError, LLMasOSError
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_huggingface_folder.writer import CheckpointFolderWriter
from llmasos_task_kit.results import ResultFile

resource = pytest.importorskip("resource", reason="Windows has no such limit.")

COMMAND = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from llmasos.cli import main
main()
"""


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> set[str]:
    """What lies in a folder, but for locks, which hold nothing."""
    return {path.name for path in folder.rglob("*") if not path.name.endswith(".lock")} if folder.exists() else set()


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    base = tiny_checkpoint(folder=tmp_path / "base")

    def write() -> None:
        with CheckpointFolderWriter(base, tmp_path / "out" / "model") as writer:
            for name in base.names():
                writer.add(name, base.tensor(name))

    with files_up_to(100_000), pytest.raises(AccelerationError, match=r"could not be written .* nothing of it was kept"):
        write()
    assert names(tmp_path / "out") == set()
    write()
    assert "model.safetensors" in names(tmp_path / "out")


def test_results_that_are_there_stay_and_the_batch_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = [{"index": number, "key": str(number), "output": "x" * 100} for number in range(20)]

    def write() -> None:
        with ResultFile(path) as results:
            for line in lines:
                results.append([line])

    with files_up_to(1000), pytest.raises(LLMasOSError, match=r"cannot be written .* what it holds is kept"):
        write()
    with ResultFile(path) as results:
        assert 0 < len(results.keys) < len(lines)
        results.append(line for line in lines if line["index"] not in results.keys)
        results.sort()
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines


def test_a_conversation_stays_as_it_was(tmp_path: Path) -> None:
    kept = ConversationStore(tmp_path)
    turn = {"role": "user", "content": "Hello"}
    kept.append("talk", [turn])
    with files_up_to(kept.path.stat().st_size), pytest.raises(LLMasOSError, match=r"conversations\.db cannot be read or written"):
        kept.append("talk", [{"role": "user", "content": "long " * 40_000}])
    assert names(tmp_path) == {"conversations.db"}
    assert kept.load("talk").messages == (turn,)


@pytest.mark.parametrize("verb", ["run", "accelerate"])
def test_a_command_says_so_and_works_once_there_is_room(
    verb: str, tmp_path: Path, fork_server: ForkServer, new_home: Callable[[Path], Path]
) -> None:
    """The engine's build, and the result of an accelerator."""
    model, home = tmp_path / "model", new_home(tmp_path / "home")
    tiny_checkpoint(folder=model)
    output = tmp_path / "out" / "model"
    arguments = {
        "run": ["run", "Hello", "--model", model, "--loader", "onnx", "-n", "4"],
        "accelerate": ["accelerate", model, "--stage", "quant:bits=8", "--no-measure", "--loader", "onnx", "--output", output],
    }[verb]

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        given = {**fork_server.env, "LLMASOS_HOME": str(home)}
        return fork_server.said(str(limit), *map(str, arguments), folder=tmp_path, code=COMMAND, env=given)

    full = run(100_000)
    assert full.returncode == 1
    error = full.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert "File too large" in error
    assert "Traceback" not in full.stderr
    assert not [name for name in names(home / "cache") | names(output.parent) if "partial" in name or "safetensors" in name]
    assert run(100_000_000).returncode == 0
