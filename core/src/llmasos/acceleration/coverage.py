"""Coverage: the share of the weights that a stage changed, of those it could change."""

from __future__ import annotations

import math

from llmasos_hookspecs import AccelerationResult, Checkpoint


def coverage(before: Checkpoint, after: Checkpoint, result: AccelerationResult) -> float:
    """Elements of touched tensors, divided by those of touched and skipped tensors; 1 where there are neither."""
    touched = sum(_elements(name, after, before) for name in set(result.touched))
    skipped = sum(_elements(name, before, after) for name in result.skipped if name not in result.touched)
    return touched / (touched + skipped) if touched + skipped else 1.0


def _elements(name: str, *checkpoints: Checkpoint) -> int:
    for checkpoint in checkpoints:
        if name in checkpoint.names():
            return math.prod(checkpoint.shape(name))
    return 0
