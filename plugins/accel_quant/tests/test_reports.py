"""What the user reads of quantisation: problems, progress and notes, each whole; and grids against a search in plain loops."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from llmasos_accel_quant import Options, calibrated, llmasos_accelerate
from llmasos_accel_quant.awq import EXPONENTS, column_scales
from llmasos_accel_quant.grid import SHRINKS, Grid
from llmasos_accel_quant.plan import plan_quantization
from llmasos_hookspecs import AccelerationError, StagePlan, as_float32
from llmasos_hookspecs.testing import SandboxContext, TinyCheckpoint, read_folder, tiny_checkpoint
from llmasos_torch_decoder import load_decoder

DECODER = tiny_checkpoint("llama").decoder
CLEAN = {"quantized": False, "masked": False}


def test_query_heads_share_the_magnitudes_of_their_value_head_alone() -> None:
    """Two value heads of two columns, each for two query heads."""
    assert calibrated._shared(np.arange(8, dtype=np.float32), 2, 2).tolist() == [1, 2, 1, 2, 5, 6, 5, 6]
    assert calibrated._shared(np.arange(4, dtype=np.float32), 2, 1).tolist() == [0, 1, 2, 3]


def test_problems_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def problems(options: Options, decoder: Any = DECODER, **state: bool) -> Sequence[str]:
        return plan_quantization(decoder, options, {**CLEAN, **state}).problems

    assert problems(Options(), quantized=True) == (
        "The weights are quantised already, and quantising twice only adds error; take one quant stage away.",
    )
    assert problems(Options(group=24, head_group=7)) == (
        "group = 24 cannot be; take one of 16, 32, 64, 128, 256, or 0 for one scale a row.",
        "head_group = 7 cannot be; take one of 16, 32, 64, 128, 256, or 0 for one scale a row.",
    )
    odd = attrs.evolve(DECODER, hidden_size=100, intermediate_size=200, num_heads=3, head_dim=20)
    undivided = "which even the smallest group, 16, does not divide; set"
    assert problems(Options(group=64, head_group=32), odd) == (
        f"group = 64 cannot be: hidden_size is 100, {undivided} group = 0.",
        f"group = 64 cannot be: intermediate_size is 200, {undivided} group = 0.",
        f"group = 64 cannot be: num_heads * head_dim is 60, {undivided} group = 0.",
        f"head_group = 32 cannot be: hidden_size is 100, {undivided} head_group = 0.",
    )
    assert len(problems(Options(group=64, head_group=32, head_bits=16), odd)) == 3, "A head that stays has no groups."
    monkeypatch.setitem(sys.modules, "llmasos_torch_decoder", None)
    assert problems(Options(method="awq")) == (
        'method = "awq" runs the model on calibration text, which needs torch; pip install "llmasos-accel-quant[calibrated]", or set '
        'method = "rtn".',
    )


def test_a_plan_unties_the_head_that_is_quantised() -> None:
    tied = attrs.evolve(DECODER, tie_embeddings=True)
    plan = StagePlan(decoder=attrs.evolve(tied, tie_embeddings=False), leaves={"quantized": True}, calibration=False)
    assert plan_quantization(tied, Options(), CLEAN) == plan
    assert plan_quantization(tied, Options(head_bits=16), CLEAN) == attrs.evolve(plan, decoder=None)
    assert plan_quantization(DECODER, Options(), CLEAN) == attrs.evolve(plan, decoder=None)


def run(checkpoint: TinyCheckpoint, root: Path, **options: Any) -> tuple[TinyCheckpoint, dict[str, Any], SandboxContext]:
    root.mkdir(exist_ok=True)
    context = SandboxContext(root=root, base=checkpoint)
    result = llmasos_accelerate(checkpoint, root / "out", Options(**options), context)
    return read_folder(result.path), dict(result.report), context


TIED = "The head was tied to the embedding; it is stored on its own now, and the embedding is kept in float16."
ZEROS = (
    "Zero points: transformers 5 with compressed-tensors 0.20 reads them only with CompressedTensorsConfig(dequantize=True), and only "
    "where head_bits is bits or 16; symmetric codes have no such limit."
)


def test_reports(tmp_path: Path) -> None:
    """Of an untied head, a tied one, one that stays, zero points, and groups that do not divide."""
    tied, biases = tiny_checkpoint("qwen2"), tiny_checkpoint("llama-biases")
    rows = {"8 bits, one scale a row": 14}
    assert run(tiny_checkpoint("llama"), tmp_path / "a")[1] == {"method": "rtn", "schemes": rows, "head_bits": 8, "notes": []}
    assert run(tied, tmp_path / "b")[1] == {"method": "rtn", "schemes": rows, "head_bits": 8, "notes": [TIED]}
    stays = {"method": "rtn", "schemes": rows, "head_bits": 16, "notes": ["The head was left as it was, as head_bits = 16 asks."]}
    assert run(tied, tmp_path / "c", head_bits=16)[1] == stays
    four = {"method": "rtn", "schemes": {"4 bits, groups of 32": 14}, "head_bits": 4, "notes": [ZEROS, TIED]}
    assert run(tied, tmp_path / "d", bits=4, method="rtn", head_bits=4, symmetric=False)[1] == four
    assert run(biases, tmp_path / "e", group=64)[1]["notes"] == [
        "Groups of 64 do not divide every width, and the stored layout has no short last group; where they do not, the largest that does "
        "was taken: 12 weights in 8 bits, groups of 32."
    ]


def test_progress_is_told_by_tensors_and_by_layers(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    for method, expected in (
        ("rtn", []),
        ("gptq", [("gptq on 3 windows", 2, 2, "layers")]),
        ("awq", [("awq on 3 windows", 2, 2, "layers")]),
    ):
        context = run(checkpoint, tmp_path / method, bits=4, method=method, windows=3, length=16)[2]
        tensors = len(list(checkpoint.names()))
        assert [(each.label, each.done, each.total, each.unit) for each in context.displays] == [
            *expected,
            ("quantise", tensors, tensors, "tensors"),
        ]


def test_too_little_damping_is_noted(tmp_path: Path) -> None:
    """With how many inputs it was too little for, of all, and the most that was taken; enough of it is not mentioned."""
    notes = run(tiny_checkpoint("llama"), tmp_path / "a", bits=4, method="gptq", windows=1, length=4, damping=1e-12)[1]["notes"]
    found = re.fullmatch(
        r"damping = 1e-12 is too little for 8 of 8 inputs, whose columns are nearly the same; there it was raised, to (\S+) at most\.",
        notes[0],
    )
    assert found
    assert 1e-11 < float(found[1]) < 1e-2
    assert run(tiny_checkpoint("llama"), tmp_path / "b", bits=4, method="gptq", windows=1, length=4, damping=1.0)[1]["notes"] == []
    assert calibrated._damping_notes([0.1, 0.01, 10.0], 0.01) == [
        "damping = 0.01 is too little for 2 of 3 inputs, whose columns are nearly the same; there it was raised, to 10 at most."
    ]


def test_an_embedding_beyond_float16_stays_as_it_is(tmp_path: Path) -> None:
    """And one that fits becomes float16, also where it was quantised."""
    name = "model.embed_tokens.weight"
    base = tiny_checkpoint("llama")
    for size, kind in ((65503.0, np.float16), (65504.0, np.float32), (-65504.0, np.float32)):
        embedding = np.array(base.tensor(name))
        embedding[0, 0] = size
        written = run(attrs.evolve(base, tensors={**base.tensors, name: embedding}), tmp_path / f"{size}")[0]
        assert written.tensor(name).dtype == kind
        assert written.tensor(name)[0, 0] == pytest.approx(size, rel=1e-3)
        np.testing.assert_allclose(as_float32(written.tensor(name)), embedding, rtol=1e-3, atol=1e-6)
    assert run(tiny_checkpoint("llama-q8"), tmp_path / "q8")[0].tensor(name).dtype == np.float16


def test_widths_that_no_group_divides_are_refused_by_name(tmp_path: Path) -> None:
    """Where a plan was passed over; and a weight that is no number, with the folder it is in."""
    base = tiny_checkpoint("llama")
    name = "model.layers.0.mlp.down_proj.weight"
    with pytest.raises(AccelerationError) as caught:
        run(attrs.evolve(base, tensors={**base.tensors, name: np.ones((64, 72), np.float32)}), tmp_path, group=64)
    assert str(caught.value) == f"{name} has 72 columns, which no group of at least 16 divides; set group = 0."


def searched(weight: np.ndarray, bits: int, group: int, symmetric: bool, importance: np.ndarray) -> np.ndarray:
    """The rounded matrix with the best share of each group's range, one group after the other."""
    out = np.empty_like(weight)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], group):
            part, weights = weight[row, start : start + group], importance[start : start + group]
            low, high = (-np.abs(part).max(), np.abs(part).max()) if symmetric else (min(part.min(), 0), max(part.max(), 0))
            best = np.inf
            for shrink in SHRINKS:
                scale = np.float32(np.float16((high * shrink - low * shrink) / (2**bits - 1)))
                zero = 2 ** (bits - 1) if symmetric else np.clip(np.rint(-low * shrink / scale), 0, 2**bits - 1)
                rounded = (np.clip(np.rint(part / scale) + zero, 0, 2**bits - 1) - zero) * scale
                error = float((np.square(rounded - part) * weights).sum())
                if error < best * (1 - 1e-6):
                    best, out[row, start : start + group] = error, rounded
    return out


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_grid_takes_the_share_of_the_range_with_the_least_error(bits: int, symmetric: bool) -> None:
    """Weighted by the importance of the columns; groups on one side of zero hold zero too."""
    rng = np.random.default_rng(bits)
    weight = rng.standard_t(3, (12, 64)).astype(np.float32)
    weight[3] = np.abs(weight[3]) + 1
    weight[4] = -np.abs(weight[4]) - 1
    importance = np.exp(2 * rng.standard_normal(64)).astype(np.float32)
    grid = Grid.spanning(weight, bits=bits, group=16, symmetric=symmetric, importance=importance)
    found, expected = grid.nearest(weight).dequantize(), searched(weight, bits, 16, symmetric, importance)
    assert np.mean(np.abs(found - expected) > 1e-5) < 0.05, "Shares of nearly the same error may differ."
    error, least = (float((np.square(each - weight) * importance).sum()) for each in (found, expected))
    assert error == pytest.approx(least, rel=1e-4)


def test_scales_and_zeros_of_plain_groups() -> None:
    """By the definition: the largest magnitude over half of the steps, or the range over all of them."""
    weight = np.array([[-7.5, 3.0, 0.5, 7.0], [0.0, 1.5, 3.0, 7.5], [-6.0, -3.0, -1.5, 1.5], [0.0, 0.0, 0.0, 0.0]], np.float32)
    symmetric = Grid.spanning(weight, bits=4, group=4, symmetric=True)
    assert symmetric.scales[:, 0].tolist() == [1.0, 1.0, np.float16(0.8), 1.0]
    assert (symmetric.zeros == 8).all()
    assert symmetric.nearest(weight).zeros is None
    assert symmetric.nearest(weight).codes[:2].tolist() == [[0, 11, 8, 15], [8, 10, 11, 15]]
    ranged = Grid.spanning(weight, bits=4, group=4, symmetric=False)
    assert ranged.scales[:, 0].tolist() == [np.float16(14.5 / 15), 0.5, 0.5, 1.0]
    assert ranged.zeros[:, 0].tolist() == [8, 0, 12, 0]
    assert ranged.nearest(weight).codes[1:].tolist() == [[0, 3, 6, 15], [0, 6, 9, 15], [0, 0, 0, 0]]


@pytest.mark.parametrize(("size", "exact"), [(1e-4, False), (1e-2, True), (1e5, True), (1e6, False)])
def test_scales_beyond_float16_stay_as_they_are(size: float, exact: bool) -> None:
    weight = (np.array([[1.0, -0.77, 0.31, 0.1]]) * size).astype(np.float32)
    scale = Grid.spanning(weight, bits=4, group=4, symmetric=True).scales[0, 0]
    expected = np.float32(2 * weight.max()) / np.float32(15)
    assert scale == (np.float32(np.float16(expected)) if exact else expected)


def test_awq_takes_the_exponent_of_the_least_error() -> None:
    """Over all weights that share the input, each in its own groups; columns that see nothing count as a ten-thousandth of the largest."""
    chosen = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weights = [rng.standard_normal((rows, 64)).astype(np.float32) for rows in (24, 8)]
        x = (rng.standard_normal((300, 64)) * np.exp(0.3 * (seed + 1) * rng.standard_normal(64))).astype(np.float32)
        x[:, 5] = 0
        hessian, magnitudes, symmetric = x.T @ x / len(x), np.abs(x).mean(axis=0), seed % 2 == 0
        found = column_scales(weights, hessian, magnitudes, bits=4, groups=[16, 32], symmetric=symmetric)
        errors, factors = [], []
        for exponent in EXPONENTS:
            by = np.maximum(magnitudes, magnitudes.max() * 1e-4) ** np.float32(exponent)
            by /= np.sqrt(by.max() * by.min())
            factors.append(by)
            total = 0.0
            for weight, group in zip(weights, (16, 32), strict=True):
                moments = np.diagonal(hessian) / by**2
                grid = Grid.spanning(weight * by, bits=4, group=group, symmetric=symmetric, importance=moments)
                total += float(np.square(x @ (grid.nearest(weight * by).dequantize() / by - weight).T).sum())
            errors.append(total)
        chosen.add(int(np.argmin(errors)))
        np.testing.assert_allclose(found, factors[int(np.argmin(errors))], rtol=1e-4)
    assert len(chosen) > 2, "Else hardly anything was chosen."


@pytest.mark.parametrize("case", ["llama-biases", "qwen3", "qwen2"])
def test_awq_s_factors_are_folded_without_a_trace(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any weight is rounded the model computes with the factors what it computed before; norms, and biases of what feeds a scaled
    input, are stored as they are then."""
    base = tiny_checkpoint(case)
    decoders: list[Any] = []
    monkeypatch.setattr(calibrated, "load_decoder", lambda checkpoint: decoders.append(load_decoder(checkpoint)) or decoders[-1])
    monkeypatch.setattr(calibrated, "_put", lambda *_: None)
    tokens = np.random.default_rng(1).integers(0, 256, (4, 32)).astype(np.int32)
    context = SandboxContext(root=tmp_path, base=base)
    _, scaled, _ = calibrated.quantize_calibrated(base, Options(bits=4, method="awq"), context, tokens)
    ids = torch.from_numpy(tokens.astype(np.int64))
    with torch.no_grad():
        torch.testing.assert_close(decoders[0](ids), load_decoder(base)(ids), atol=2e-4, rtol=1e-3)
    parameters = dict(decoders[0].named_parameters())
    changed = {
        name
        for name, parameter in load_decoder(base).named_parameters()
        if not torch.equal(parameter, parameters[name]) and not name.endswith("_proj.weight")
    }
    assert changed <= scaled.keys()
    assert any(name.endswith("layernorm.weight") for name in changed)
    for name, tensor in scaled.items():
        assert np.array_equal(tensor, parameters[name].detach().numpy()), name
