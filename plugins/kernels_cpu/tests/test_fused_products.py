"""Products with a sum and a norm before them, and gates behind them: the bits of the plain product between the same steps."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from plugins.kernels_cpu.tests.matrices import FORMS, SETS, alike, packed

from llmasos_decoder_kit.cpu_kernels import RmsNorm
from llmasos_hookspecs import LLMasOSError
from llmasos_kernels_cpu.library import multiply
from llmasos_kernels_cpu.packing import PackedMatrix
from llmasos_kernels_cpu.shape import PRECISIONS, Precision

EPSILON = 1e-5


def matrix_of(form: str, rows: int, columns: int) -> PackedMatrix:
    return packed(FORMS[form].tensor(rows, columns, np.random.default_rng(1)))


def normed(x: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    return wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + EPSILON) * gamma


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", ["q4_1", "q6_k", "int8 by row"])
def test_a_norm_is_that_of_float64(form: str, precision: Precision) -> None:
    """Of the input, or of its sum with an addend, up to one step of the rounding of activations here and there; the same bits by every
    instruction set, in any batch."""
    random = np.random.default_rng(2)
    for columns in (16, 100, 288):
        matrix = matrix_of(form, 40, columns)
        x, addend = random.normal(size=(2, 21, columns)).astype(np.float32)
        gamma = random.normal(size=columns).astype(np.float32)
        for added in (None, addend):
            both = x if added is None else x + added
            plain = multiply(matrix, normed(both, gamma).astype(np.float32), precision=precision, name="scalar")
            with_norm = partial(multiply, matrix, norm=RmsNorm(gamma, EPSILON), precision=precision)
            found = with_norm(x, addend=added, name="scalar")
            assert np.linalg.norm(found - plain) < 2e-3 * np.linalg.norm(plain)
            for name in alike(precision):
                np.testing.assert_array_equal(with_norm(x, addend=added, name=name, threads=2), found)
                alone = with_norm(x[5:6], addend=None if added is None else added[5:6], name=name)
                np.testing.assert_array_equal(alone[0], found[5])


@pytest.mark.parametrize("name", SETS)
def test_an_addend_without_a_norm_is_only_added(name: str) -> None:
    matrix = matrix_of("q8_0", 20, 70)
    x, addend = np.random.default_rng(3).normal(size=(2, 9, 70)).astype(np.float32)
    np.testing.assert_array_equal(multiply(matrix, x, addend=addend, name=name), multiply(matrix, x + addend, name=name))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", ["q4_1", "q6_k"])
def test_gates_open_what_stands_against_them(form: str, precision: Precision) -> None:
    """The silu of the plain product's first half times its second, within float32, for more rows than are gated at once."""
    random = np.random.default_rng(4)
    matrix, x = matrix_of(form, 96, 100), random.normal(size=(150, 100)).astype(np.float32)
    bias = random.normal(size=96).astype(np.float32)
    gates, values = np.split(multiply(matrix, x, bias, precision=precision, name="scalar").astype(np.float64), 2, axis=1)
    gate = partial(multiply, matrix, bias=bias, gated=True, precision=precision)
    found = gate(x, name="scalar")
    expected = gates / (1 + np.exp(-gates)) * values
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()
    for name in alike(precision):
        np.testing.assert_array_equal(gate(x, name=name, threads=3), found)
        np.testing.assert_array_equal(gate(x[:3], name=name), found[:3])


def test_gates_of_half_a_panel_are_refused() -> None:
    with pytest.raises(LLMasOSError, match="no packed matrix"):
        multiply(matrix_of("q8_0", 48, 32), np.zeros((1, 32), np.float32), gated=True)


def test_wrong_shapes_are_refused() -> None:
    matrix, x = matrix_of("q8_0", 32, 32), np.zeros((2, 32), np.float32)
    with pytest.raises(ValueError, match=r"addend has the shape \(1, 32\), not \(2, 32\)"):
        multiply(matrix, x, addend=x[:1])
    with pytest.raises(ValueError, match=r"gamma has the shape \(31,\)"):
        multiply(matrix, x, norm=RmsNorm(np.ones(31, np.float32), EPSILON))
