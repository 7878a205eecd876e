"""``QuantizedTensor`` stands for the matrix that its formula gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies as st

from llmasos_hookspecs import QuantizedTensor, as_float32


def made(bits: int = 4, rows: int = 3, columns: int = 10, group: int = 4, offset: str | None = None, seed: int = 0) -> QuantizedTensor:
    rng = np.random.default_rng(seed)
    groups = (rows, -(-columns // group))
    extra: dict[str, Any] = {}
    if offset == "zeros":
        extra["zeros"] = rng.integers(0, 2**bits, groups, dtype=np.uint8)
    if offset == "minimums":
        extra["minimums"] = rng.standard_normal(groups).astype(np.float32)
    return QuantizedTensor(
        codes=rng.integers(0, 2**bits, (rows, columns), dtype=np.uint8),
        scales=rng.random(groups, dtype=np.float32) + np.float32(0.1),
        bits=bits,
        group=group,
        **extra,
    )


def by_hand(tensor: QuantizedTensor) -> npt.NDArray[np.float32]:
    out = np.zeros(tensor.shape, np.float32)
    for row in range(tensor.shape[0]):
        for column in range(tensor.shape[1]):
            g = column // tensor.group
            code, scale = np.float32(tensor.codes[row, column]), tensor.scales[row, g]
            if tensor.minimums is not None:
                out[row, column] = code * scale + tensor.minimums[row, g]
            else:
                zero = 2 ** (tensor.bits - 1) if tensor.zeros is None else tensor.zeros[row, g]
                out[row, column] = (code - np.float32(zero)) * scale
    return out


@given(
    bits=st.integers(2, 8),
    rows=st.integers(1, 5),
    columns=st.integers(1, 40),
    group=st.integers(1, 48),
    offset=st.sampled_from([None, "zeros", "minimums"]),
    seed=st.integers(0, 99),
)
def test_dequantize_is_the_formula(bits: int, rows: int, columns: int, group: int, offset: str | None, seed: int) -> None:
    """Each element is ``scale * (code - zero)`` or ``scale * code + minimum``, with a shorter last group where it must be."""
    tensor = made(bits, rows, columns, group, offset, seed)
    np.testing.assert_array_equal(tensor.dequantize(), by_hand(tensor))


@pytest.mark.parametrize("offset", [None, "zeros", "minimums"])
@pytest.mark.parametrize("index", [slice(1, 3), np.array([2, 0])])
def test_rows_can_be_taken(offset: str | None, index: Any) -> None:
    """``take_rows`` gives the rows of the matrix, in the order asked."""
    tensor = made(offset=offset)
    np.testing.assert_array_equal(tensor.take_rows(index).dequantize(), tensor.dequantize()[index])


def test_dequantize_leaves_the_codes_alone() -> None:
    """Dequantising twice gives the same."""
    tensor = made(offset="minimums")
    first = tensor.dequantize()
    np.testing.assert_array_equal(tensor.dequantize(), first)


def test_symmetric_has_no_offset() -> None:
    """Only a tensor without zeros and minimums is symmetric."""
    assert [made(offset=offset).symmetric for offset in (None, "zeros", "minimums")] == [True, False, False]


def test_bytes_are_those_of_the_packed_form() -> None:
    """4 bits a code, 16 a scale and minimum, 4 a zero."""
    tensors = [made(columns=64, group=32, offset=offset) for offset in (None, "zeros", "minimums")]
    assert [tensor.nbytes for tensor in tensors] == [3 * 32 + 12, 3 * 32 + 12 + 3, 3 * 32 + 12 + 12]


@pytest.mark.parametrize("name", ["scales", "zeros", "minimums"])
def test_parts_of_the_wrong_shape_are_refused(name: str) -> None:
    """Scales, zeros and minimums must have one element a group."""
    parts: dict[str, Any] = {"codes": np.zeros((3, 10), np.uint8), "scales": np.ones((3, 3), np.float32), "bits": 4, "group": 4}
    parts[name] = np.zeros((3, 2), np.uint8)
    with pytest.raises(ValueError, match=rf"QuantizedTensor.{name} has shape \(3, 2\).*need \(3, 3\)"):
        QuantizedTensor(**parts)


def test_zeros_and_minimums_exclude_each_other() -> None:
    """A group has an integer zero or a float minimum."""
    groups = np.zeros((3, 3), np.uint8)
    with pytest.raises(ValueError, match="not both"):
        QuantizedTensor(
            codes=np.zeros((3, 10), np.uint8), scales=groups.astype("f4"), bits=4, group=4, zeros=groups, minimums=groups.astype("f4")
        )


@pytest.mark.parametrize(("bits", "group"), [(1, 4), (9, 4), (4, 0)])
def test_widths_have_bounds(bits: int, group: int) -> None:
    """2 to 8 bits, groups of at least one column."""
    with pytest.raises(ValueError, match="must be"):
        QuantizedTensor(codes=np.zeros((3, 10), np.uint8), scales=np.ones((3, 3), np.float32), bits=bits, group=group)


def test_as_float32_takes_either_form() -> None:
    """Plain arrays are converted, float32 ones not copied, quantised ones dequantised."""
    plain = np.ones((2, 3), np.float32)
    assert as_float32(plain) is plain
    assert as_float32(plain.astype(np.float16)).dtype == np.float32
    np.testing.assert_array_equal(as_float32(made()), made().dequantize())
