"""The training loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from llmasos_accel_distill.data import Sequences, Tokens
from llmasos_accel_distill.loss import divergence, state_error
from llmasos_accel_distill.options import Options
from llmasos_accel_distill.state import Progress, RunFolder, optimizer_tensors, restore_optimizer
from llmasos_hookspecs import AccelerationError
from llmasos_torch_decoder import Decoder


class Training:
    """A training run, saved every few steps; a resumed run is bitwise identical to an uninterrupted one.

    All random numbers follow from seed and step number, so a save holds weights, the optimiser's moments and the curves, but no generator
    state.
    """

    def __init__(
        self,
        student: Decoder,
        teacher: Decoder,
        sequences: Sequences,
        options: Options,
        folder: RunFolder,
        *,
        taught_by: Sequence[int],
        hidden: float,
        seed: int,
    ) -> None:
        self._student, self._teacher, self._sequences = student, teacher, sequences
        self._options, self._folder = options, folder
        self._taught_by, self._hidden, self._seed = taught_by, hidden, seed
        self._parameters = dict(student.named_parameters())
        # The fused optimiser makes one pass over the weights: 0.09 s of a step of SmolLM2 on two cores; unfused it takes 0.3 s.
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self._best: dict[str, Tensor] = {}
        self.progress = Progress()

    def run(self, advance: Callable[[float], None]) -> None:
        """Train to the end, and restore the student's weights of the best evaluation on the held-out sequences.

        ``advance`` is called with the number of steps done, including those of an earlier process.
        """
        options = self._options
        if not self._resume():
            self._look()
        advance(self.progress.step)
        while self.progress.step < options.steps and self.progress.stale < options.patience:
            loss = self._step()
            self.progress.step += 1
            self.progress.training.append([self.progress.step, loss])
            if self.progress.step % options.evaluate_every == 0 or self.progress.step == options.steps:
                self._look()
            if self.progress.step % options.checkpoint_every == 0:
                self._save()
            advance(1)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._best[name])

    def _step(self) -> float:
        options, step = self._options, self.progress.step
        tokens = _ids(self._sequences.batch(step, options.batch, self._seed))
        with torch.no_grad(), self._precision():
            wanted = self._teacher.hidden_states(tokens)
            expected = self._teacher.head(wanted[-1])
        with self._precision():
            states = self._student.hidden_states(tokens)
            loss = divergence(expected, self._student.head(states[-1]), options.temperature)
            total = loss + self._hidden * state_error(wanted, states, self._taught_by) if self._hidden else loss
        self._optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule(step, options.steps, options.warmup)
        self._optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def _look(self) -> None:
        """Measure the held-out divergence, in float32, and keep the weights if it is the smallest so far."""
        progress = self.progress
        each = []
        for sequence in self._sequences.held_out:
            tokens = _ids(sequence[None])
            each.append(float(divergence(self._teacher(tokens), self._student(tokens))))
        found = float(np.mean(each))
        if not math.isfinite(found) and not progress.held_out:
            raise AccelerationError("What the teacher or the student predicts is NaN or infinite before any training; check both models.")
        progress.held_out.append([progress.step, found])
        if found < progress.best:
            progress.best, progress.best_step, progress.stale = found, progress.step, 0
            self._best = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        else:
            progress.stale += 1

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {f"student.{name}": parameter for name, parameter in self._parameters.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        self._folder.save(self.progress, {**tensors, **optimizer_tensors(self._optimizer)})

    def _resume(self) -> bool:
        found = self._folder.load()
        if found is None:
            return False
        self.progress, tensors = found
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[f"student.{name}"])
        self._best = {name: tensors[f"best.{name}"] for name in self._parameters}
        restore_optimizer(self._optimizer, tensors)
        return True

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self._options.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast("cpu", dtype=torch.bfloat16)


def schedule(step: int, steps: int, warmup: int) -> float:
    """The learning rate as a share of its peak: a linear rise, then a cosine down to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.55 + 0.45 * math.cos(math.pi * done)


def _ids(tokens: Tokens) -> Tensor:
    return torch.from_numpy(tokens.astype(np.int64))
