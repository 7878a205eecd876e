"""Accelerates a tiny model in processes that die at given moments, for ``test_acceleration_killed.py``.

    python dying.py FOLDER STAGES MOMENTS

``MOMENTS`` is JSON, a list of ``[home, what, name, count]``: die in the ``count``-th ``advance`` of the display ``name``, or after the
``count``-th tensor is written; with no ``what``, live. Prints a line of JSON for each: how the process ended, and what was to be seen
then. Frameworks and stages are imported once: every process is a fork of one in which none has computed anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which every optimiser imports when it is made

import llmasos
import llmasos.compose.composition
import llmasos_accel_distill.stage  # noqa: F401
import llmasos_accel_prune.layers  # noqa: F401
import llmasos_accel_quant.stage  # noqa: F401
from llmasos.compose.formats import open_model
from llmasos_huggingface_folder.writer import CheckpointFolderWriter


class Fuse:
    """A display of progress, and a count of tensors, that ends the process by SIGKILL when it has come so far."""

    def __init__(self, left: float) -> None:
        self._left = left

    def advance(self, amount: float = 1) -> None:
        self._left -= amount
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Sink:
    def __init__(self, name: str, count: float) -> None:
        self._name, self._count = name, count

    @contextlib.contextmanager
    def progress(self, label: str, total: float | None, unit: str) -> Iterator[Fuse]:
        yield Fuse(self._count if label.startswith(self._name) else float("inf"))

    def note(self, message: str) -> None:
        pass


def burn_in_the_writer(fuse: Fuse) -> None:
    add = CheckpointFolderWriter.add

    def adding(writer: CheckpointFolderWriter, name: str, tensor: Any) -> None:
        add(writer, name, tensor)
        fuse.advance()

    CheckpointFolderWriter.add = adding


def accelerate(folder: Path, stages: list[Any], home: str, what: str = "", name: str = "", count: float = 0) -> None:
    os.environ["LLMASOS_HOME"] = str(folder / home)
    torch.set_num_threads(1)
    if what == "writing":
        burn_in_the_writer(Fuse(count))
    sink = Sink(name, count) if what == "progress" else None
    report = llmasos.accelerate(folder / "model", stages, output=folder / home / "out", measure=False, progress=sink)
    (folder / home / "cached.json").write_text(json.dumps([stage.cached for stage in report.stages]))


def seen(home: Path) -> dict[str, Any]:
    """The finished stages and the output as anybody would find them, every tensor read and so held to its digest."""
    checkpoints = [open_model(entry / "model") for entry in (home / "cache" / "acceleration" / "stages").glob("[!.]*")]
    if (home / "out").exists():
        checkpoints.append(open_model(home / "out"))
    for checkpoint in checkpoints:
        for name in checkpoint.names():
            checkpoint.tensor(name)
    return {"checkpoints": len(checkpoints), "output": (home / "out").exists()}


def main() -> None:
    folder, stages, moments = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    for moment in moments:
        process = os.fork()
        if not process:
            try:
                accelerate(folder, stages, *moment)
                os._exit(0)
            except BaseException:  # a fork must not go on as if it were this process
                traceback.print_exc()
                os._exit(1)
        ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(json.dumps({"ended": ended, **seen(folder / moment[0])}), flush=True)


if __name__ == "__main__":
    main()
