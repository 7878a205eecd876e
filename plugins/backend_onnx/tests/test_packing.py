"""Quantised matrices keep their weights in every layout they are packed into."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from llmasos_backend_onnx.packing import BlockMatrix, block_of, pack, quantize, stack
from llmasos_hookspecs import QuantizedTensor


def tensor(rows: int, columns: int, bits: int, group: int, kind: str, seed: int = 0) -> QuantizedTensor:
    """A random tensor; ``kind`` is symmetric, zeros or minimums."""
    random = np.random.default_rng(seed)
    groups = -(-columns // group)
    scales = random.uniform(0.5, 2.0, (rows, groups)).astype(np.float32) / (1 << bits)
    half = (1 << bits) / 2
    return QuantizedTensor(
        codes=random.integers(0, 1 << bits, (rows, columns), dtype=np.uint8),
        scales=scales,
        bits=bits,
        group=group,
        zeros=random.integers(0, 1 << bits, (rows, groups), dtype=np.uint8) if kind == "zeros" else None,
        minimums=(-scales * random.uniform(half - 2, half + 1, (rows, groups))).astype(np.float32) if kind == "minimums" else None,
    )


def worst(packed: BlockMatrix, original: QuantizedTensor) -> float:
    """The greatest error of a weight, in distances between two codes."""
    steps = np.repeat(original.scales, original.group, axis=1)[:, : original.shape[1]]
    return float((np.abs(packed.dequantize() - original.dequantize()) / steps).max())


@pytest.mark.parametrize("kind", ["symmetric", "zeros"])
@pytest.mark.parametrize(("bits", "into"), [(2, 4), (3, 4), (4, 4), (4, 8), (5, 8), (6, 8), (8, 8)])
@pytest.mark.parametrize(("columns", "group"), [(128, 32), (96, 32), (256, 128), (64, 16), (70, 70), (100, 64)])
def test_integer_zeros_are_kept_exactly(kind: str, bits: int, into: int, columns: int, group: int) -> None:
    original = tensor(6, columns, bits, group, kind)
    block = block_of(original)
    assert block is not None
    assert worst(pack(original, bits=into, block=block), original) < 1e-5


@pytest.mark.parametrize(("bits", "into", "error"), [(4, 4, 1 / 100), (2, 4, 1 / 100), (4, 8, 1 / 10), (5, 8, 1 / 5), (2, 8, 1 / 100)])
@pytest.mark.parametrize(("columns", "group"), [(576, 32), (1536, 32), (256, 64), (64, 16)])
def test_float_minimums_are_kept_to_a_fraction_of_a_step(bits: int, into: int, error: float, columns: int, group: int) -> None:
    original = tensor(16, columns, bits, group, "minimums")
    block = block_of(original)
    assert block is not None
    assert worst(pack(original, bits=into, block=block), original) < error


def test_blocks_of_one_weight_are_kept() -> None:
    """A block with the scale 0 is its minimum, and one far from zero has no zero point in reach."""
    original = tensor(4, 64, 4, 32, "minimums")
    original.scales[:2, 0] = 0
    original.scales[2, 0], original.minimums[2, 0] = 1e-3, 2.0
    for bits in (4, 8):
        packed = pack(original, bits=bits, block=32)
        np.testing.assert_allclose(packed.dequantize()[:3], original.dequantize()[:3], atol=2.0 / 127)
        np.testing.assert_allclose(packed.dequantize()[3], original.dequantize()[3], atol=original.scales.max() / 8)


def test_rows_with_and_without_zeros_stack() -> None:
    parts = [tensor(3, 64, 4, 32, "zeros", 1), tensor(5, 64, 4, 32, "symmetric", 2)]
    stacked = stack([pack(part, bits=4, block=32) for part in parts])
    np.testing.assert_allclose(stacked.dequantize(), np.concatenate([part.dequantize() for part in parts]), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 200),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32, 64]),
    scale=st.floats(1e-6, 1e6),
    seed=st.integers(0, 1000),
)
def test_quantize_rounds_to_within_half_a_step(rows: int, columns: int, bits: int, block: int, scale: float, seed: int) -> None:
    weights = np.random.default_rng(seed).normal(0, scale, (rows, columns)).astype(np.float32)
    rounded = quantize(weights, bits, block)
    steps = np.repeat(rounded.scales, block, axis=1)[:, :columns]
    # Half a step for the weight, and half a one for the zero where there is one.
    assert (np.abs(rounded.dequantize() - weights) <= steps * (0.51 if bits == 8 else 1.01)).all()
    packed = pack(rounded, bits=bits, block=block)
    np.testing.assert_allclose(packed.dequantize(), rounded.dequantize(), rtol=1e-5, atol=scale * 1e-6)
