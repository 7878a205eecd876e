"""Matrices as blocks of GGUF's types: codes that are kept, and rounding."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from llmasos_format_gguf.blocks import BLOCK_TYPES, read_tensor
from llmasos_format_gguf.quantize import WRITABLE, encode
from llmasos_hookspecs import QuantizedTensor, as_float32


def weights(rows: int = 48, columns: int = 512, seed: int = 1) -> np.ndarray:
    """Rows of very different sizes, with blocks of zeros and of one value among them."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((rows, columns)).astype(np.float32) * rng.lognormal(size=(rows, 1)).astype(np.float32)
    found[0], found[1, :64], found[2, :64] = 0, -1.5, 0
    return found


def decoded(data: np.ndarray, kind: GGMLQuantizationType, shape: tuple[int, ...]) -> np.ndarray:
    return as_float32(read_tensor(data.reshape(-1), kind, shape))


KINDS = [kind for kind in WRITABLE if kind in BLOCK_TYPES]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.name.endswith("K")], ids=lambda kind: kind.name)
def test_blocks_of_32_are_those_of_the_gguf_package(kind: GGMLQuantizationType) -> None:
    np.testing.assert_array_equal(encode(weights(), kind), gguf.quantize(weights(), kind))


@pytest.mark.parametrize(("kind", "most"), [("Q4_K", 0.078), ("Q6_K", 0.019)])
def test_k_types_leave_no_more_error_than_their_bits_must(kind: str, most: float) -> None:
    """Of normal weights; one step of a uniform grid over 32 such elements leaves 0.078 with 4 bits."""
    stored = GGMLQuantizationType[kind]
    found = decoded(encode(weights(), stored), stored, (48, 512))
    assert np.linalg.norm(found - weights()) / np.linalg.norm(weights()) < most
    assert not found[0].any()
    np.testing.assert_allclose(found[1, :32], -1.5, rtol=0.01)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_written_twice_is_the_same(kind: GGMLQuantizationType) -> None:
    """Codes that were read are kept, not rounded again; K types are within their own rounding."""
    first = encode(weights(), kind)
    read = read_tensor(first.reshape(-1), kind, (48, 512))
    again = encode(read, kind)
    if kind.name.endswith("K"):
        assert np.linalg.norm(decoded(again, kind, (48, 512)) - as_float32(read)) < 0.01 * np.linalg.norm(weights())
    else:
        np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize(
    ("bits", "symmetric", "kind"),
    [
        (8, True, "Q8_0"),
        (4, True, "Q8_0"),
        (8, False, None),
        (4, True, "Q4_0"),
        (4, False, "Q4_1"),
        (3, False, "Q4_1"),
        (5, True, "Q5_0"),
    ],
)
@pytest.mark.parametrize("group", [32, 128, 512])
def test_codes_of_another_layout_are_kept_where_the_type_holds_them(
    bits: int, symmetric: bool, kind: str | None, group: int, quantize: Callable[..., QuantizedTensor]
) -> None:
    tensor = quantize(weights(), bits=bits, group=group, symmetric=symmetric)
    tensor = attrs.evolve(tensor, scales=np.maximum(tensor.scales, 1e-3).astype(np.float16).astype(np.float32))
    stored = GGMLQuantizationType[kind or "Q4_1"]
    found = decoded(encode(tensor, stored), stored, (48, 512))
    if kind is None:  # 8 bits with zeros of their own: rounded anew
        assert np.abs(found - tensor.dequantize()).max() > 0
    elif symmetric:
        np.testing.assert_array_equal(found, tensor.dequantize())
    else:  # the minimum, scale times zero, is rounded to float16
        np.testing.assert_allclose(found, tensor.dequantize(), rtol=0, atol=2e-3 * np.abs(tensor.dequantize()).max())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_numbers_that_are_not_finite_are_refused(kind: GGMLQuantizationType, value: float) -> None:
    array = weights()
    array[3, 5] = value
    with pytest.raises(ValueError, match="not finite"):
        encode(array, kind)


def test_numbers_that_float16_cannot_hold_are_refused() -> None:
    for kind in (GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_1):
        with pytest.raises(ValueError, match="write bf16 or f32"):
            encode(np.full((2, 32), 1e9, np.float32), kind)


def test_experts_are_encoded_one_behind_the_other() -> None:
    stack = weights(8).reshape(2, 4, 512)
    np.testing.assert_array_equal(encode(stack, GGMLQuantizationType.Q8_0)[1], encode(stack[1], GGMLQuantizationType.Q8_0))
