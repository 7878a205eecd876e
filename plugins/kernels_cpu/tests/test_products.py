"""Every instruction set of this processor computes the products of every form, with the same bits."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import attrs
import numpy as np
import pytest
from plugins.kernels_cpu.tests.matrices import FORMS, SETS, WAYS, Form, alike, largest_shift, packed, product, rounded_to_bf16, whole

from llmasos_hookspecs import ConfigError, LLMasOSError, PluginError, QuantizedTensor
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.packing import PackedMatrix
from llmasos_kernels_cpu.shape import Precision

#: Rows and columns: fewer than a panel and a unit, whole ones, and odd numbers of both.
SIZES = ((1, 1), (3, 16), (16, 32), (17, 100), (40, 288), (5, 515))


def with_whole_factors(tensor: QuantizedTensor, random: np.random.Generator) -> QuantizedTensor:
    """The same codes with scales of 1 and 2, and minimums that are integers."""
    scales = random.choice(np.array([1, 2], dtype=np.float32), tensor.scales.shape)
    minimums = None if tensor.minimums is None else random.integers(-9, 9, tensor.scales.shape).astype(np.float32)
    return attrs.evolve(tensor, scales=scales, minimums=minimums)


@pytest.mark.parametrize(("name", "precision"), WAYS)
@pytest.mark.parametrize("form", list(FORMS))
def test_a_product_is_that_of_integers(form: str, name: str, precision: Precision) -> None:
    """Where weights and activations are integers nothing is rounded, and the result is theirs exactly."""
    random = np.random.default_rng(1)
    for rows, columns in SIZES:
        tensor = with_whole_factors(FORMS[form].tensor(rows, columns, random), random)
        x, bias = whole(random, 9, columns), random.integers(-99, 99, rows).astype(np.float32)
        expected = x.astype(np.int64) @ tensor.dequantize().astype(np.int64).T + bias.astype(np.int64)
        assert np.abs(expected).max() < 1 << 24
        np.testing.assert_array_equal(library.multiply(packed(tensor), x, bias, precision=precision, name=name, threads=2), expected)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("group", [16, 32])
def test_no_sum_of_the_largest_products_is_cut(bits: int, group: int, name: str) -> None:
    """The largest and the smallest codes with the largest activations of either sign."""
    for code in (0, (1 << bits) - 1):
        codes = np.full((16, 64), code, dtype=np.uint8)
        tensor = QuantizedTensor(codes=codes, scales=np.ones((16, 64 // group), np.float32), bits=bits, group=group)
        for sign in (1, -1):
            x = np.full((3, 64), sign * 127, dtype=np.float32)
            expected = 64 * 127 * sign * (code - (1 << (bits - 1)))
            np.testing.assert_array_equal(library.multiply(packed(tensor), x, name=name), np.full((3, 16), expected))


@pytest.mark.parametrize("form", list(FORMS))
def test_every_instruction_set_gives_the_same_bits(form: str) -> None:
    """Those of plain C++, which are the product in float64 up to the rounding of its float32 sums."""
    random = np.random.default_rng(2)
    for rows, columns in SIZES:
        tensor = FORMS[form].tensor(rows, columns, random)
        matrix = packed(tensor)
        x = (random.normal(size=(13, columns)) * random.lognormal(sigma=2, size=(13, 1))).astype(np.float32)
        expected = library.multiply(matrix, x, name="scalar")
        magnitude = np.abs(x) @ np.abs(tensor.dequantize().T)
        assert (np.abs(expected - product(tensor, matrix.shape, x)) <= 1e-5 * magnitude).all()
        for name in SETS:
            np.testing.assert_array_equal(library.multiply(matrix, x, name=name), expected)


@pytest.mark.parametrize("form", list(FORMS))
def test_activations_in_bfloat16_are_multiplied_as_by_float32(form: str) -> None:
    """The product of the rounded activations with the weights as they are, up to the rounding of sums in float32: as many as a unit has
    columns, and a row units and groups. The same bits by every instruction set but AMX."""
    random = np.random.default_rng(10)
    for rows, columns in SIZES:
        tensor = FORMS[form].tensor(rows, columns, random)
        matrix = packed(tensor)
        x = (random.normal(size=(13, columns)) * random.lognormal(sigma=2, size=(13, 1))).astype(np.float32)
        weights, values = tensor.dequantize().astype(np.float64), rounded_to_bf16(x).astype(np.float64)
        sums = matrix.shape.unit + matrix.shape.units + matrix.shape.groups
        bound = sums * 2.0**-24 * (np.abs(values) @ (np.abs(weights) + 2 * largest_shift(tensor)).T)
        expected = library.multiply(matrix, x, precision="bf16", name="scalar")
        for name in SETS:
            found = library.multiply(matrix, x, precision="bf16", name=name)
            assert (np.abs(found - values @ weights.T) <= bound).all()
            if name in alike("bf16"):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F808000, 0x3F800000),
        (0x3F818000, 0x3F820000),
        (0xBF808001, 0xBF810000),
        (0x7F7FFFFF, 0x7F800000),
        (0x0D000000, 0),
    ],
)
def test_activations_are_rounded_to_the_nearest_of_bfloat16(bits: int, rounded: int) -> None:
    """And to the even one of two; the largest become infinite, and the smallest zero. A matrix of ones leaves them so."""
    matrix = packed(QuantizedTensor(codes=np.full((1, 16), 9, np.uint8), scales=np.ones((1, 1), np.float32), bits=4, group=16))
    x = np.zeros((1, 16), np.float32)
    x.view(np.uint32)[0, 0] = bits
    for name in SETS:
        assert library.multiply(matrix, x, precision="bf16", name=name).view(np.uint32)[0, 0] == rounded


@pytest.mark.parametrize(("name", "precision"), WAYS)
@pytest.mark.parametrize("form", ["q4_1", "q8_0", "q6_k", "int4, groups of 128 with zeros"])
def test_a_row_has_the_same_bits_in_any_batch(form: str, name: str, precision: Precision) -> None:
    """Alone, with other rows, with any number of threads."""
    random = np.random.default_rng(3)
    matrix = packed(FORMS[form].tensor(70, 288, random))
    x = random.normal(size=(67, 288)).astype(np.float32)
    multiply = partial(library.multiply, matrix, precision=precision, name=name)
    expected = np.concatenate([multiply(x[at : at + 1]) for at in range(len(x))])
    for count in (2, 3, 7, 8, 15, 16, 17, 32, 67):
        for threads in (1, 3) if count in (3, 17, 67) else (1,):
            np.testing.assert_array_equal(multiply(x[:count], threads=threads), expected[:count])


@pytest.mark.parametrize(("name", "precision"), WAYS)
def test_what_is_no_number_stays_none(name: str, precision: Precision) -> None:
    """A row with NaN or infinity gives no finite number, beside rows that are not touched by it; tiny values count as zero."""
    matrix = packed(FORMS["q4_1"].tensor(20, 70, np.random.default_rng(4)))
    x = np.random.default_rng(5).normal(size=(6, 70)).astype(np.float32)
    plain = library.multiply(matrix, x, precision=precision, name=name)
    x[1, 69], x[2, 3], x[3, 40] = np.nan, np.inf, -np.inf
    x[4] = 1e-38
    found = library.multiply(matrix, x, precision=precision, name=name)
    assert not np.isfinite(found[1:4]).any()
    assert not found[4].any()
    np.testing.assert_array_equal(found[[0, 5]], plain[[0, 5]])


def test_rows_of_the_matrix_are_those_of_the_tensor() -> None:
    """To the bit, in every form; an index beyond them is refused."""
    random = np.random.default_rng(6)
    for form in FORMS.values():
        tensor = form.tensor(21, 100, random)
        indices = np.array([20, 0, 5, 5], dtype=np.int64)
        np.testing.assert_array_equal(library.take_rows(packed(tensor), indices), tensor.dequantize()[indices])
    for wrong in (-1, 21):
        with pytest.raises(LLMasOSError, match="no row"):
            library.take_rows(packed(tensor), np.array([wrong], dtype=np.int64))


def test_a_matrix_that_is_cut_short_is_refused() -> None:
    matrix = packed(FORMS["q4_0"].tensor(16, 64, np.random.default_rng(7)))
    with pytest.raises(LLMasOSError, match="size of its shape"):
        library.multiply(PackedMatrix(matrix.shape, matrix.data[:, :-1].copy()), np.zeros((1, 64), np.float32))


def test_a_form_of_activations_that_the_library_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of one that is older than the Python around it."""
    monkeypatch.setattr(library, "PRECISIONS", ("int8", "bf16", "fp8"))
    matrix = packed(FORMS["q4_0"].tensor(16, 64, np.random.default_rng(7)))
    with pytest.raises(LLMasOSError, match="int8 or to bfloat16 only"):
        library.multiply(matrix, np.zeros((1, 64), np.float32), precision="fp8")  # type: ignore[arg-type]  # that is the test


def test_products_of_several_threads_at_once_are_right() -> None:
    """The pool serves one, the others compute alone."""
    random = np.random.default_rng(8)
    matrix = packed(FORMS["q8_0"].tensor(200, 256, random))
    x = random.normal(size=(8, 256)).astype(np.float32)
    expected = library.multiply(matrix, x)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: library.multiply(matrix, x, threads=2), range(64)):
            np.testing.assert_array_equal(found, expected)


def _in_a_fork(connection: object) -> None:
    matrix = packed(FORMS["q8_0"].tensor(64, 64, np.random.default_rng(9)))
    connection.send(library.multiply(matrix, np.ones((1, 64), np.float32), threads=2))  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    here, there = multiprocessing.Pipe()
    expected = library.multiply(packed(Form(8, 32).tensor(64, 64, np.random.default_rng(9))), np.ones((1, 64), np.float32), threads=2)
    child = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(there,))
    child.start()
    assert here.poll(60)
    np.testing.assert_array_equal(here.recv(), expected)
    child.join()


@pytest.mark.parametrize("name", SETS)
def test_an_environment_variable_forces_an_instruction_set(name: str) -> None:
    code = "from llmasos_kernels_cpu import library; print(library.chosen())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, library.VARIABLE: name}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == name


def test_a_library_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As of a wheel that was copied from another machine."""
    monkeypatch.setattr(library, "PATH", tmp_path / "none.so")
    library._library.cache_clear()
    try:
        with pytest.raises(PluginError, match=r"cannot be loaded \(.*none\.so.*\); install it again on this machine"):
            library.chosen()
    finally:
        library._library.cache_clear()


def test_one_that_does_not_run_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "sse9")
    with pytest.raises(ConfigError, match=r"LLMASOS_KERNELS is 'sse9', and this processor runs .*scalar; set it to one"):
        library.chosen()
