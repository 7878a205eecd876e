"""What a model will need is predicted from its headers."""

from __future__ import annotations

import math

import attrs
import pytest

from llmasos_hookspecs import MemoryEstimate
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_residency.prediction import Need, predict

CHECKPOINT = tiny_checkpoint("llama")
ESTIMATE = MemoryEstimate(weight_bytes=1000, kv_bytes_per_token=7)


def test_the_loaders_estimate_stands_and_the_largest_tensor_is_held_twice_more_in_float32() -> None:
    largest = max(math.prod(CHECKPOINT.shape(name)) for name in CHECKPOINT.names())
    assert predict(CHECKPOINT, ESTIMATE) == Need(
        weights=1000,
        peak=1000 + 8 * largest,
        kv_bytes_per_token=7,
        context_length=CHECKPOINT.decoder.context_length,
        load_seconds=1000 / 200e6,
    )


@pytest.mark.parametrize(("limit", "expected"), [(None, 50), (20, 20), (80, 50)])
def test_the_context_is_the_shorter_of_the_models_and_the_limit(limit: int | None, expected: int) -> None:
    measured = attrs.evolve(predict(CHECKPOINT, ESTIMATE), context_length=50, weights=3, measured=True)
    found = predict(CHECKPOINT, ESTIMATE, context_length=limit, measured=measured)
    assert found == attrs.evolve(measured, context_length=expected)
