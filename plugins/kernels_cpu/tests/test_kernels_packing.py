"""Matrices are packed unchanged in value, in the fewest bytes that hold them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from plugins.kernels_cpu.tests.matrices import FORMS, Form

from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.packing import pack
from llmasos_kernels_cpu.two_levels import split_levels


@pytest.mark.parametrize(
    ("form", "bits", "scale"),
    [
        ("q4_0", 4, "half"),
        ("q5_1", 6, "half"),
        ("q8_0", 8, "half"),
        ("q4_k", 4, "two_level"),
        ("q6_k", 6, "two_level"),
        ("int8 by row", 8, "single"),
    ],
)
def test_a_form_takes_the_bytes_of_its_codes_and_scales(form: str, bits: int, scale: str) -> None:
    matrix = pack([FORMS[form].tensor(64, 512, np.random.default_rng(0))])
    assert matrix is not None
    assert (matrix.shape.bits, matrix.shape.scale) == (bits, scale)
    assert matrix.data.nbytes == matrix.shape.panels * matrix.shape.panel_bytes == library.packed_bytes(matrix.shape)
    stored = {"q4_0": 4.5, "q5_1": 7, "q8_0": 8.5, "q4_k": 4.625, "q6_k": 6.5625, "int8 by row": 8.0625}[form]
    assert matrix.data.nbytes == pytest.approx(64 * 512 * stored / 8, rel=0.01)


def test_tensors_of_one_form_become_one_matrix() -> None:
    random = np.random.default_rng(1)
    for first, second in (("q4_1", "q4_1"), ("q4_0", "int4 stored"), ("q5_0", "q6 by 32")):
        forms = FORMS | {"int4 stored": Form(4, 32, "stored"), "q6 by 32": Form(6, 32)}
        tensors = [forms[first].tensor(5, 64, random), forms[second].tensor(20, 64, random)]
        matrix = pack(tensors)
        assert matrix is not None
        expected = np.concatenate([tensor.dequantize() for tensor in tensors])
        np.testing.assert_array_equal(library.take_rows(matrix, np.arange(25)), expected)


def test_tensors_of_several_forms_and_odd_groups_are_left_to_others() -> None:
    random = np.random.default_rng(2)
    for first, second in (("q4_1", "q8_0"), ("q4_1", "q4_0"), ("q4_0", "q6_k")):
        assert pack([FORMS[first].tensor(4, 256, random), FORMS[second].tensor(4, 256, random)]) is None
    assert pack([FORMS["q4_0"].tensor(4, 64, random), FORMS["q4_0"].tensor(4, 32, random)]) is None
    for group in (8, 24, 40):
        assert pack([Form(4, group).tensor(4, 120, random)]) is None


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    groups=st.integers(1, 20),
    count=st.sampled_from([8, 16]),
    largest=st.integers(-128, 127),
    everywhere=st.booleans(),
    size=st.sampled_from([1e-2, 1e-6, 1e3]),
    seed=st.integers(0, 999),
)
def test_two_levels_are_found_again(rows: int, groups: int, count: int, largest: int, everywhere: bool, size: float, seed: int) -> None:
    """Whether all blocks have the same largest integer or each its own, and where the float16 has few bits left."""
    random = np.random.default_rng(seed)
    upper = (random.normal(size=(rows, -(-groups // count))) * size).astype(np.float16)
    lower = random.integers(-abs(largest), abs(largest) + 1, (rows, groups))
    if everywhere:
        lower[:, ::count] = largest
    lower = np.clip(lower, -128, 127)
    products = np.repeat(upper.astype(np.float32), count, axis=1)[:, :groups] * lower.astype(np.float32)
    found = split_levels(products, count)
    assert found is not None
    again = np.repeat(found[1].astype(np.float32), count, axis=1)[:, :groups] * found[0].astype(np.float32)
    np.testing.assert_array_equal(again, products)


def test_products_beyond_float16_have_no_levels() -> None:
    """Nor is there a warning of numpy, which fails a test here: a scale that is infinite as a float16 is not multiplied."""
    large = np.zeros((1, 8), np.float32)
    large[0, 0] = 2.0**120
    assert split_levels(large, 8) is None


def test_other_scales_have_no_levels() -> None:
    random = np.random.default_rng(3)
    for kind in (np.float32, np.float16):
        assert split_levels(random.uniform(0.5, 2, (300, 16)).astype(kind).astype(np.float32), 8) is None
    some = np.full((300, 16), 0.5, np.float32)
    for scale in (0.30000001, np.float16(0.3)):  # no product of a float16 and an integer, and none with the float16 of the others
        some[200, 3] = scale  # beyond the blocks that are tried first
        assert split_levels(some, 8) is None
    some[200, 3] = 0.25
    assert split_levels(some, 8) is not None
