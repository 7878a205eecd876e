"""Everything that a training run is, and keeping it where a run that was cut off finds it again."""

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

#: How many other runs that were cut off are kept to go on from; a save takes four times the model's size in float32.
_OTHERS: Final = 2


@attrs.define
class Progress:
    """How far training has come.

    Attributes:
        step: steps done.
        best, best_step: least held-out divergence, and after which step.
        stale: looks in a row that saw nothing better.
        training, held_out: (step, loss) points of the curves.
    """

    step: int = 0
    best: float = float("inf")
    best_step: int = 0
    stale: int = 0
    training: list[list[float]] = attrs.field(factory=list)
    held_out: list[list[float]] = attrs.field(factory=list)


class RunFolder:
    """One run's saves. Each is a folder that a rename makes the current one; the one before is removed after that.

    Opening it gives up the oldest of the other runs beside it that were never taken to their end.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        others = [folder for folder in root.parent.iterdir() if folder != root]
        for folder in sorted(others, key=_changed, reverse=True)[_OTHERS:]:
            shutil.rmtree(folder, ignore_errors=True)

    def save(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Keep a step. Raises ``AccelerationError`` where the disk does not take it."""
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
        """The latest save that is whole; None where there is none."""
        for step in sorted(self._steps(), reverse=True):
            folder = self._folder(step)
            try:
                record: dict[str, Any] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
                return Progress(**record), load_file(folder / _TENSORS)
            except (OSError, ValueError, TypeError, SafetensorError):
                continue
        return None

    def remove(self) -> None:
        """Training is over, and what it gave is written."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _folder(self, step: int) -> Path:
        return self.root / f"step-{step}"

    def _steps(self) -> list[int]:
        found = (folder.name.removeprefix("step-") for folder in self.root.glob("step-*"))
        return [int(step) for step in found if step.isdigit()]


def _changed(folder: Path) -> float:
    """When a save last came or went; 0 where another process has just removed the run."""
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
