"""The config options of ``distill``."""

from __future__ import annotations

from typing import Any, Literal

import attrs

_at_least_one = attrs.validators.ge(1)


def _field(default: Any, text: str, *validators: Any) -> Any:
    return attrs.field(default=default, validator=list(validators), metadata={"help": text})


@attrs.frozen(kw_only=True)
class Options:
    """Options of ``distill``."""

    teacher: str = _field("", "Folder or file of the teacher; by default the model that the first stage started from.")
    steps: int = _field(1000, "Optimiser steps at most.", _at_least_one)
    batch: int = _field(1, "Sequences a step.", _at_least_one)
    length: int = _field(256, "Tokens of a sequence.", attrs.validators.ge(2))
    windows: int = _field(240, "Sequences of calibration text.", attrs.validators.ge(2))
    held_out: int = _field(8, "Of those, how many are never trained on and decide when to stop.", _at_least_one)
    source: Literal["text", "samples", "both"] = _field("text", "Train on the text, on text that the teacher samples, or on both in turn.")
    samples: int = _field(128, "Sequences that the teacher samples.", _at_least_one)
    learning_rate: float = _field(3e-4, "Peak of the learning rate.", attrs.validators.gt(0))
    warmup: int = _field(50, "Steps in which the learning rate rises; a cosine brings it down to a tenth.", attrs.validators.ge(0))
    temperature: float = _field(1.0, "Divides both models' logits in the loss.", attrs.validators.gt(0))
    hidden: float | None = _field(
        None,
        "Weight of the loss on hidden states; by default 0.1 where layers were dropped, else 0.",
        attrs.validators.optional(attrs.validators.ge(0)),
    )
    evaluate_every: int = _field(50, "Steps between two evaluations on the held-out sequences.", _at_least_one)
    patience: int = _field(6, "Stop after this many evaluations in a row without improvement.", _at_least_one)
    checkpoint_every: int = _field(100, "Steps between two saves, from which an interrupted run resumes.", _at_least_one)
    precision: Literal["float32", "bfloat16"] = _field(
        "float32", "Of matrix products; weights and the optimiser stay float32. bfloat16 is faster where the processor has it."
    )
