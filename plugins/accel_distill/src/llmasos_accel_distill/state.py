"""The state of a training run, and saving it so that an interrupted run resumes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmasos_hookspecs import AccelerationError

_TENSORS: Final = "tensors.safetensors"
_RECORD: Final = "progress.json"

#: Number of other interrupted runs that are kept; a save takes four times the model's size in float32.
_OTHERS: Final = 2


@attrs.define
class Progress:
    """The progress of a training run.

    Attributes:
        step: steps done.
        best, best_step: smallest held-out divergence, and its step.
        stale: evaluations in a row without improvement.
        training, held_out: (step, loss) points of the curves.
    """

    step: int = 0
    best: float = float("inf")
    best_step: int = 0
    stale: int = 0
    training: list[list[float]] = attrs.field(factory=list)
    held_out: list[list[float]] = attrs.field(factory=list)


class RunFolder:
    """The saves of one run. A rename makes a new folder the current save; the previous one is removed afterwards.

    Opening it removes the oldest of the other unfinished runs beside it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        others = [folder for folder in root.parent.iterdir() if folder != root]
        for folder in sorted(others, key=_changed, reverse=True)[_OTHERS:]:
            shutil.rmtree(folder, ignore_errors=True)

    def save(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Save a step. Raises ``AccelerationError`` if it cannot be written."""
        partial = self.root / "partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, partial / _TENSORS)
            (partial / _RECORD).write_text(json.dumps(attrs.asdict(progress)), encoding="utf-8")
            for file in partial.iterdir():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            target = self._folder(progress.step)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        except (OSError, SafetensorError) as error:
            raise AccelerationError(f"Training could not be saved in {self.root} ({error}); free some space and start it again.") from error
        for step in self._steps():
            if step != progress.step:
                shutil.rmtree(self._folder(step), ignore_errors=True)

    def load(self) -> tuple[Progress, dict[str, Tensor]] | None:
        """The latest complete save; None if there is none."""
        for step in sorted(self._steps(), reverse=True):
            folder = self._folder(step)
            try:
                record: dict[str, Any] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
                return Progress(**record), load_file(folder / _TENSORS)
            except (OSError, ValueError, TypeError, SafetensorError):
                continue
        return None

    def remove(self) -> None:
        """Remove all saves, after training has finished and its result is written."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _folder(self, step: int) -> Path:
        return self.root / f"step-{step}"

    def _steps(self) -> list[int]:
        found = (folder.name.removeprefix("step-") for folder in self.root.glob("step-*"))
        return [int(step) for step in found if step.isdigit()]


def _changed(folder: Path) -> float:
    """The time of the last change of a save; 0 if another process has just removed the run."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as flat tensors: ``optimizer.PARAMETER.KEY``."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{number}.{key}": value for number, entry in state.items() for key, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of ``optimizer_tensors``."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
