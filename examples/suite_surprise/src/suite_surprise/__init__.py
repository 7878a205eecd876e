"""LLMasOS suite ``surprise``: how a model's surprise falls with what it has read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from llmasos_hookspecs import CapacityExceeded, Component, Engine, Figure, MeasuredModel, Row, Section, SuiteResult, hookimpl


@attrs.frozen(kw_only=True)
class Options:
    """Options of the suite."""

    windows: int = attrs.field(default=16, validator=attrs.validators.ge(2), metadata={"help": "Windows of evaluation text."})
    length: int = attrs.field(default=256, validator=attrs.validators.ge(8), metadata={"help": "Tokens of a window."})


class Surprise:
    """Mean negative log likelihood of a token, in the first and in the second half of each window."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def measure(self, model: MeasuredModel) -> SuiteResult:
        # Slow, and the same wherever it runs: core keeps it. All that it depends on besides the model is in the key.
        found = model.remember(f"losses {self._options.windows} {self._options.length}", lambda: self._losses(model))
        early, late = np.array(found["early"]), np.array(found["late"])
        return SuiteResult(
            figures=(
                _figure("early", "Surprise, first half", early, "lower"),
                _figure("late", "Surprise, second half", late, "lower"),
                _figure("gained", "Gained by reading", early - late, "higher"),
            ),
            facts={"windows": len(early), "tokens": found["tokens"]},
        )

    def sections(self, results: Mapping[str, SuiteResult]) -> Sequence[Section]:
        gained = {label: result.figure("gained") for label, result in results.items()}
        return [
            Section(
                title="What reading gains",
                text="The less the second half of a window surprises a model, compared with the first, the more it has used what it read.",
                bars={label: (figure.value, figure.error or 0.0) for label, figure in gained.items()},
            )
        ]

    def _losses(self, model: MeasuredModel) -> dict[str, Any]:
        windows = model.windows(self._options.windows, self._options.length)
        losses = []
        with model.progress("surprise", len(windows), "windows") as progress:
            for window in windows:
                losses.append(_window_losses(model.engine(), window.tolist()))
                progress.advance()
        half = windows.shape[1] // 2
        return {
            "early": [float(each[:half].mean()) for each in losses],
            "late": [float(each[half:].mean()) for each in losses],
            "tokens": int(windows.size),
        }


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="How a model's surprise falls with what it has read.",
        options=Options,
        examples=("llmasos evaluate smollm2 --suite surprise",),
    )


@hookimpl
def llmasos_create_suite(options: Options) -> Surprise:
    return Surprise(options)


def _figure(name: str, title: str, values: np.ndarray[Any, Any], better: Any) -> Figure:
    """The mean over windows with its standard error."""
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Figure(name=name, title=title, value=float(values.mean()), error=error, unit="nats/token", better=better, digits=3)


def _window_losses(engine: Engine, tokens: list[int]) -> np.ndarray[Any, Any]:
    """Negative log likelihood of every token but the first."""
    slot = engine.open()
    try:
        logits = np.concatenate(_steps(engine, slot, tokens))[:-1].astype(np.float64)
    finally:
        engine.close(slot)
    top = logits.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    losses: np.ndarray[Any, Any] = total - logits[np.arange(len(logits)), tokens[1:]]
    return losses


def _steps(engine: Engine, slot: int, tokens: list[int]) -> list[np.ndarray[Any, Any]]:
    """The logits of all tokens; steps become smaller where the engine has no room for large ones."""
    size, found, done = 128, [], 0
    while done < len(tokens):
        part = tokens[done : done + size]
        try:
            (logits,) = engine.step([Row(slot, part, done, "all", known=len(tokens))])
        except CapacityExceeded:
            if size == 1:
                raise
            engine.truncate(slot, done)
            size //= 2
        else:
            found.append(logits)
            done += len(part)
    return found
