"""Grids, GPTQ and AWQ on plain matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from llmasos_accel_quant.awq import column_scales
from llmasos_accel_quant.calibrated import input_magnitudes
from llmasos_accel_quant.gptq import Curvature, gptq
from llmasos_accel_quant.grid import Grid
from llmasos_accel_quant.groups import fitting_group
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_torch_decoder import POINTS, load_decoder, walk_layers


def inputs(columns: int, tokens: int = 2000, seed: int = 0) -> np.ndarray:
    """Inputs as layers see them: columns of different sizes that lean on each other."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((tokens, columns)) @ (np.eye(columns) + 0.4 * rng.standard_normal((columns, columns)) / np.sqrt(columns))
    return (mixed * np.exp(rng.standard_normal(columns))).astype(np.float32)


def matrix(rows: int = 64, columns: int = 128, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32)


def output_error(weight: np.ndarray, rounded: np.ndarray, given_inputs: np.ndarray) -> float:
    return float(np.square(given_inputs @ (rounded - weight).T).mean())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([16, 32, 64]),
    symmetric=st.booleans(),
    size=st.sampled_from([1e-6, 1.0, 1e5]),
)
def test_no_weight_moves_further_than_half_a_step(seed: int, bits: int, group: int, symmetric: bool, size: float) -> None:
    weight = (np.random.default_rng(seed).standard_normal((8, 64)) * size).astype(np.float32)
    grid = Grid.spanning(weight, bits=bits, group=group, symmetric=symmetric)
    steps = np.repeat(grid.scales, group, axis=1)
    # The scale is rounded to float16 and a whole zero point shifts the range, so the ends may lie up to a step outside of it.
    assert (np.abs(grid.nearest(weight).dequantize() - weight) <= 1.05 * steps).all()
    inside = np.abs(grid.nearest(weight).dequantize() - weight) <= 0.5001 * steps
    assert inside.mean() > 0.9


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_stay_zeros(symmetric: bool) -> None:
    weight = matrix()
    weight[:, ::3] = 0
    weight[5] = 0
    rounded = Grid.spanning(weight, bits=4, group=32, symmetric=symmetric).nearest(weight).dequantize()
    assert not rounded[weight == 0].any()


def test_scales_are_exact_in_sixteen_bits() -> None:
    scales = Grid.spanning(matrix(), bits=4, group=32, symmetric=True).scales
    assert (scales.astype(np.float16).astype(np.float32) == scales).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_takes_a_third_off_the_output_error_of_rounding_to_nearest(symmetric: bool) -> None:
    weight, x = matrix(), inputs(128)
    nearest = Grid.spanning(weight, bits=4, group=32, symmetric=symmetric).nearest(weight).dequantize()
    found = gptq(weight, Curvature.of(x.T @ x / len(x), 0.01), bits=4, group=32, symmetric=symmetric).dequantize()
    assert output_error(weight, found, x) < 0.65 * output_error(weight, nearest, x)


def plain_gptq(weight: np.ndarray, hessian: np.ndarray, group: int) -> np.ndarray:
    """GPTQ as the paper's equations have it: after each column all later ones are updated from the inverse of what is left. float64."""
    grid = Grid.spanning(weight, bits=4, group=group, symmetric=True, importance=np.diagonal(hessian))
    damped = hessian + 0.01 * np.diagonal(hessian).mean() * np.eye(len(hessian))
    left, out = weight.astype(np.float64), np.empty_like(weight, np.float64)
    rest = list(np.argsort(-np.diagonal(hessian), kind="stable"))
    while rest:
        column, *others = rest
        inverse = np.linalg.solve(damped[np.ix_(rest, rest)], np.eye(len(rest))[0])  # its first row
        scale, zero = grid.scales[:, column // group], grid.zeros[:, column // group]
        out[:, column] = (np.clip(np.rint(left[:, column] / scale) + zero, 0, 15) - zero) * scale
        left[:, others] -= np.outer((left[:, column] - out[:, column]) / inverse[0], inverse[1:])
        rest = others
    return out


def test_gptq_over_several_blocks_is_the_paper_s() -> None:
    """300 columns are three blocks: what one block could not correct is handed to those after it, as without blocks."""
    weight, x = matrix(rows=16, columns=300), inputs(300)
    hessian = (x.T @ x / len(x)).astype(np.float32)
    found = gptq(weight, Curvature.of(hessian, 0.01), bits=4, group=50, symmetric=True).dequantize()
    expected = plain_gptq(weight, hessian.astype(np.float64), 50)
    assert np.mean(np.abs(found - expected) > 1e-3) < 0.01  # float32 may round a few weights to the other side
    assert output_error(weight, found, x) == pytest.approx(output_error(weight, expected, x), rel=0.02)


def test_gptq_on_white_inputs_has_nothing_to_make_up_for() -> None:
    """Where columns do not lean on each other, each weight goes to the nearest point of its grid."""
    weight = matrix()
    curvature = Curvature.of(np.eye(128, dtype=np.float32), 0.01)
    found = gptq(weight, curvature, bits=4, group=32, symmetric=True)
    expected = Grid.spanning(weight, bits=4, group=32, symmetric=True, importance=np.ones(128, np.float32)).nearest(weight)
    assert (found.codes == expected.codes).all()


def test_gptq_keeps_the_zeros_of_a_mask() -> None:
    weight, x = matrix(), inputs(128)
    mask = np.random.default_rng(2).random(weight.shape) < 0.5
    weight[mask] = 0
    found = gptq(weight, Curvature.of(x.T @ x / len(x), 0.01), bits=4, group=32, symmetric=False).dequantize()
    assert not found[mask].any()


@pytest.mark.parametrize("zeros", [230, 384])
def test_a_few_zeros_are_no_mask(zeros: int) -> None:
    """Up to a twentieth of zeros they are weights like others: what other columns lost may be made up for by them."""
    weight, x = matrix(rows=60), inputs(128)
    mask = np.zeros(weight.size, bool)
    mask[np.random.default_rng(2).choice(weight.size, zeros, replace=False)] = True
    mask = mask.reshape(weight.shape)
    weight[mask] = 0
    found = gptq(weight, Curvature.of(x.T @ x / len(x), 0.01), bits=4, group=32, symmetric=False).dequantize()
    assert 0.1 < np.mean(found[mask] != 0) < 0.9


def test_columns_of_one_moment_are_rounded_in_their_own_order() -> None:
    """So that a matrix becomes the same codes with any numpy, whatever its sorting does with ties."""
    moments = np.tile(np.array([1, 2], np.float32), 32)
    assert Curvature.of(np.diag(moments), 0.01).order.tolist() == [*range(1, 64, 2), *range(0, 64, 2)]


def test_columns_that_are_never_used_do_no_harm() -> None:
    weight, x = matrix(), inputs(128)
    x[:, 40:60] = 0
    found = gptq(weight, Curvature.of(x.T @ x / len(x), 0.01), bits=4, group=32, symmetric=True).dequantize()
    assert np.isfinite(found).all()
    assert output_error(weight, found, x) < 0.05 * float(np.square(x @ weight.T).mean())


@pytest.mark.parametrize("damping", [1e-30, 1e-12, 1e-9])
def test_too_little_damping_is_raised_until_the_factor_can_be_trusted(damping: float) -> None:
    """Inputs of rank 8: their moments have no inverse, and with too little added a wrong one that numpy gives without an error."""
    weight = matrix()
    x = inputs(8) @ np.random.default_rng(3).standard_normal((8, 128)).astype(np.float32)
    curvature = Curvature.of(x.T @ x / len(x), damping)
    assert damping < curvature.damping <= 1e-3
    assert np.log10(curvature.damping / damping) == pytest.approx(round(np.log10(curvature.damping / damping)), abs=1e-6)
    moments = (x.T @ x / len(x)).astype(np.float64)[np.ix_(curvature.order, curvature.order)]
    damped = moments + curvature.damping * np.diagonal(moments).mean() * np.eye(128)
    wide = curvature.factor.astype(np.float64)
    assert np.linalg.norm(wide.T @ wide @ damped - np.eye(128)) < 0.02 * np.sqrt(128)
    found = gptq(weight, curvature, bits=4, group=32, symmetric=True).dequantize()
    nearest = Grid.spanning(weight, bits=4, group=32, symmetric=True).nearest(weight).dequantize()
    assert output_error(weight, found, x) < output_error(weight, nearest, x)


def test_damping_that_is_enough_is_left_as_it_is() -> None:
    x = inputs(128)
    curvature = Curvature.of(x.T @ x / len(x), 0.01)
    assert curvature.damping == 0.01
    assert curvature.factor.dtype == np.float32


def test_awq_magnitudes_are_means_over_all_windows() -> None:
    """Five windows are two batches, and each token of both counts once."""
    tokens = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (5, 16)))
    for step in walk_layers(load_decoder(tiny_checkpoint("llama")), tokens):
        for point in POINTS:
            inputs = torch.cat(list(step.inputs(point)))
            np.testing.assert_allclose(input_magnitudes(step, point), inputs.abs().mean(dim=0).numpy(), rtol=1e-5)


def test_awq_scales_lower_the_output_error() -> None:
    weight, x = matrix(), inputs(128)
    hessian = x.T @ x / len(x)
    factors = column_scales([weight], hessian, np.abs(x).mean(axis=0), bits=4, groups=[32], symmetric=True)

    def error(by: np.ndarray) -> float:
        scaled = weight * by
        grid = Grid.spanning(scaled, bits=4, group=32, symmetric=True, importance=np.diagonal(hessian) / by**2)
        return output_error(weight, grid.nearest(scaled).dequantize() / by, x)

    assert error(factors) < 0.9 * error(np.ones(128, np.float32))


@pytest.mark.parametrize(
    ("columns", "group", "expected"),
    [(576, 128, 64), (576, 32, 32), (576, 0, 576), (1536, 128, 128), (48, 64, 16), (100, 32, None), (36, 0, 36)],
)
def test_a_group_that_does_not_divide_becomes_the_largest_that_does(columns: int, group: int, expected: int | None) -> None:
    assert fitting_group(columns, group) == expected
