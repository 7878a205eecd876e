"""Layers, MLPs and masks."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from llmasos_accel_prune import Options, llmasos_accelerate
from llmasos_accel_prune.layers import choose_layers
from llmasos_accel_prune.plan import plan_pruning
from llmasos_accel_prune.sparsity import least, magnitude, sparsegpt, wanda
from llmasos_hookspecs import AccelerationResult, as_float32
from llmasos_hookspecs.testing import ReferenceDecoder, SandboxContext, TinyCheckpoint, read_folder, tiny_checkpoint
from llmasos_torch_decoder import load_decoder

CLEAN = {"quantized": False, "masked": False}


def deep(case: str = "llama", layers: int = 6, idle: tuple[int, ...] = ()) -> TinyCheckpoint:
    """A tiny model of several layers, of which the ``idle`` ones change almost nothing."""
    tiny = tiny_checkpoint(case)
    tensors = {name: tensor for name, tensor in tiny.tensors.items() if ".layers." not in name}
    for layer in range(layers):
        donor = tiny_checkpoint(case, seed=layer + 1)
        for name, tensor in donor.tensors.items():
            if name.startswith("model.layers.0."):
                small = layer in idle and name.endswith(("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias"))
                tensors[name.replace(".0.", f".{layer}.", 1)] = as_float32(tensor) * np.float32(0.01 if small else 1)
    return TinyCheckpoint(config={**tiny.config, "num_hidden_layers": layers}, tensors=tensors)


def run(checkpoint: TinyCheckpoint, root: Path, **options: object) -> tuple[TinyCheckpoint, AccelerationResult, SandboxContext]:
    context = SandboxContext(root=root, base=checkpoint)
    result = llmasos_accelerate(checkpoint, root / "out", Options(**options), context)
    return read_folder(result.path), result, context


def ended(context: SandboxContext) -> list[float | None]:
    """What each progress display was to end at, and did."""
    assert [display.done for display in context.displays] == [display.total for display in context.displays]
    return [display.total for display in context.displays]


class NoProgress:
    def advance(self, amount: float = 1) -> None: ...


def inputs(columns: int = 128) -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((3000, columns)) @ (np.eye(columns) + 0.5 * rng.standard_normal((columns, columns)) / np.sqrt(columns))
    return (mixed * np.exp(rng.standard_normal(columns))).astype(np.float32)


def test_the_layers_that_change_least_are_dropped(tmp_path: Path) -> None:
    base = deep(idle=(1, 4))
    written, result, context = run(base, tmp_path, drop=2, windows=4, length=64)
    assert result.report["method"] == "layers"
    assert ended(context) == [2]
    assert result.report["dropped"] == [1, 4]
    assert result.report["kept"] == [0, 2, 3, 5]
    assert written.decoder.num_layers == 4
    tokens = list(range(50))
    np.testing.assert_allclose(ReferenceDecoder(written).logits(tokens), ReferenceDecoder(base).logits(tokens), atol=0.5)


def test_named_layers_are_dropped_and_the_others_move_up(tmp_path: Path) -> None:
    base = deep()
    written, _, _ = run(base, tmp_path, layers=(0, 3))
    for place, layer in enumerate((1, 2, 4, 5)):
        name = "self_attn.q_proj.weight"
        assert (written.tensor(f"model.layers.{place}.{name}") == base.tensor(f"model.layers.{layer}.{name}")).all()


def test_kinds_of_layers_move_with_them(tmp_path: Path) -> None:
    base = deep("qwen3", layers=3)
    base = attrs.evolve(base, config={**base.config, "layer_types": ["full_attention", "sliding_attention", "full_attention"]})
    written, _, _ = run(base, tmp_path, layers=(0,))
    assert written.config["layer_types"] == ["sliding_attention", "full_attention"]


def test_a_narrower_mlp_keeps_what_it_can(tmp_path: Path) -> None:
    """Half of the neurons are copies of the other half; without them, fitted anew, the model says the same."""
    base = tiny_checkpoint("llama-biases")
    tensors = dict(base.tensors)
    for layer in range(2):
        for name in ("gate_proj", "up_proj"):
            for kind in ("weight", "bias"):
                key = f"model.layers.{layer}.mlp.{name}.{kind}"
                half = as_float32(tensors[key])[:64]
                tensors[key] = np.concatenate([half, half])
    base = attrs.evolve(base, tensors=tensors)
    written, result, context = run(base, tmp_path, method="mlp", width=64, windows=8, length=64)
    assert written.decoder.intermediate_size == 64
    tokens = list(range(40))
    expected, found = ReferenceDecoder(base).logits(tokens), ReferenceDecoder(written).logits(tokens)
    assert np.square(found - expected).mean() < 0.02 * np.square(expected).mean()
    assert len(result.report["lost"]) == base.decoder.num_layers
    assert max(result.report["lost"]) < 0.05
    assert (result.report["method"], result.report["width"]) == ("mlp", 64)
    assert ended(context) == [base.decoder.num_layers]


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize(("pattern", "sparsity"), [("unstructured", 0.3), ("unstructured", 0.5), ("2:4", None)])
def test_a_mask_zeroes_the_share_asked_for_and_says_that_it_is_no_faster(
    tmp_path: Path, method: str, pattern: str, sparsity: float | None
) -> None:
    written, result, context = run(
        tiny_checkpoint("llama"), tmp_path, method=method, pattern=pattern, sparsity=sparsity, windows=4, length=64
    )
    for name in written.names():
        weight = as_float32(written.tensor(name))
        if not name.endswith("_proj.weight"):
            assert np.count_nonzero(weight) == weight.size
        elif pattern == "2:4":
            assert ((weight.reshape(-1, 4) == 0).sum(axis=1) == 2).all()
        else:
            assert np.mean(weight == 0) == pytest.approx(sparsity, abs=0.01)
    assert (result.report["method"], result.report["pattern"]) == (method, pattern)
    assert result.report["sparsity"] == pytest.approx(sparsity or 0.5, abs=0.01)
    assert ended(context) == ([] if method == "magnitude" else [written.decoder.num_layers])
    assert "makes nothing faster" in context.notes[0]
    assert result.report["notes"] == context.notes


def test_only_sparsegpt_changes_the_weights_that_stay(tmp_path: Path) -> None:
    """To make up for those that go; wanda leaves them as they are."""
    base = tiny_checkpoint("llama")
    changed = {}
    for method in ("wanda", "sparsegpt"):
        (tmp_path / method).mkdir()
        written, _, _ = run(base, tmp_path / method, method=method, windows=2, length=32)
        name = "model.layers.0.self_attn.q_proj.weight"
        before, after = as_float32(base.tensor(name)), as_float32(written.tensor(name))
        changed[method] = bool((after != before)[after != 0].any())
    assert changed == {"wanda": False, "sparsegpt": True}


def test_an_mlp_that_gives_nothing_loses_nothing(tmp_path: Path) -> None:
    base = tiny_checkpoint("llama")
    name = "model.layers.1.mlp.down_proj.weight"
    idle = attrs.evolve(base, tensors={**base.tensors, name: np.zeros_like(base.tensors[name])})
    _, result, _ = run(idle, tmp_path, method="mlp", width=64, windows=2, length=32)
    assert result.report["lost"][1] == 0.0


def test_knowing_the_inputs_costs_less() -> None:
    """On inputs of different sizes: SparseGPT loses less output than Wanda, and Wanda less than magnitude."""
    x = inputs()
    hessian = x.T @ x / len(x)
    weight = np.random.default_rng(1).standard_normal((64, 128)).astype(np.float32)

    def lost(pruned: np.ndarray) -> float:
        return float(np.square(x @ (weight - pruned).T).mean())

    for pattern in ("unstructured", "2:4"):
        errors = [
            lost(magnitude(weight, 0.5, pattern)),
            lost(wanda(weight, np.diagonal(hessian), 0.5, pattern)),
            lost(sparsegpt(weight, hessian, 0.5, pattern)),
        ]
        assert errors[0] > 1.2 * errors[1], (pattern, errors)
        assert errors[1] > 1.05 * errors[2], (pattern, errors)


def test_sparsegpt_hands_the_errors_of_a_block_to_those_after_it() -> None:
    """300 columns are three blocks. With the mask that it chose, the weights are those of updating every later column after each one, by
    the inverse of what is left (float64)."""
    x = inputs(300)
    hessian = (x.T @ x / len(x)).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((16, 300)).astype(np.float32)
    damped = hessian + 0.01 * np.diagonal(hessian).mean() * np.eye(300)
    rows = [np.linalg.solve(damped[column:, column:], np.eye(300 - column)[0]) for column in range(300)]  # the first of each inverse
    for pattern in ("unstructured", "2:4"):
        found = sparsegpt(weight, hessian, 0.5, pattern)
        left = weight.astype(np.float64)
        for column, row in enumerate(rows):
            error = np.where(found[:, column] == 0, left[:, column], 0.0)
            left[:, column:] -= np.outer(error / row[0], row)
        np.testing.assert_allclose(found, left, atol=1e-3)


def test_the_layers_to_drop_are_chosen_on_all_windows() -> None:
    """However the windows are batched, every one of them counts for a layer's influence."""
    decoder = load_decoder(deep())
    windows = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (6, 16)))
    together = choose_layers(decoder, windows, 2, NoProgress(), batch=6)
    apart = choose_layers(decoder, windows, 2, NoProgress(), batch=1)
    assert [entry["layer"] for entry in apart] == [entry["layer"] for entry in together]
    for one, other in zip(apart, together, strict=True):
        assert one["influence"] == pytest.approx(other["influence"], rel=1e-4)


def test_the_least_scores_go() -> None:
    scores = np.array([[4, 1, 3, 2, 8, 7, 6, 5]], np.float32)
    assert least(scores, 0.25, "unstructured").tolist() == [[False, True, False, True, False, False, False, False]]
    assert least(scores, 0.5, "2:4").tolist() == [[False, True, False, True, False, False, True, True]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"drop": 2}, "2 of 2 layers cannot be dropped"),
        ({"drop": 0}, "0 of 2 layers cannot be dropped"),
        ({}, "takes either drop"),
        ({"drop": 1, "layers": (0,)}, "takes either drop"),
        ({"layers": (5,)}, "layers are 0 to 1"),
        ({"method": "mlp"}, "width = None cannot be"),
        ({"method": "mlp", "width": 100}, "multiple of 16"),
        ({"method": "mlp", "width": 128}, "below the 128"),
        ({"method": "wanda", "sparsity": 1.0}, "above 0 and below 1"),
        ({"method": "wanda", "pattern": "2:4", "sparsity": 0.7}, "zeroes half"),
        ({"method": "wanda", "drop": 3}, 'drop = 3 says nothing to method = "wanda"'),
        ({"drop": 1, "sparsity": 0.3}, 'sparsity = 0.3 says nothing to method = "layers"'),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], sentence: str) -> None:
    problems = plan_pruning(tiny_checkpoint("llama").decoder, Options(**options), CLEAN).problems
    assert len(problems) == 1
    assert sentence in problems[0]


def test_two_of_four_on_an_odd_width_is_refused() -> None:
    odd = attrs.evolve(tiny_checkpoint("llama").decoder, hidden_size=66, intermediate_size=130)
    problems = plan_pruning(odd, Options(method="wanda", pattern="2:4"), CLEAN).problems
    assert [name for name in ("hidden_size is 66", "intermediate_size is 130") if any(name in problem for problem in problems)] == [
        "hidden_size is 66",
        "intermediate_size is 130",
    ]


def test_calibration_without_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llmasos_torch_decoder", None)
    decoder = tiny_checkpoint("llama").decoder
    (problem,) = plan_pruning(decoder, Options(drop=1), CLEAN).problems
    assert 'pip install "llmasos-accel-prune[calibrated]"' in problem
    assert not plan_pruning(decoder, Options(layers=(0,)), CLEAN).problems
    assert not plan_pruning(decoder, Options(method="magnitude"), CLEAN).problems


def test_quantised_weights_are_refused() -> None:
    plan = plan_pruning(tiny_checkpoint("llama").decoder, Options(drop=1), {**CLEAN, "quantized": True})
    assert "put prune before quant" in plan.problems[0]


def test_masks_and_structure_are_stages_of_their_own() -> None:
    decoder = tiny_checkpoint("llama").decoder
    assert plan_pruning(decoder, Options(drop=1), CLEAN).stage == "structure"
    mask = plan_pruning(decoder, Options(method="magnitude"), CLEAN)
    assert (mask.stage, mask.calibration, mask.leaves) == ("mask", False, {"masked": True})


def test_the_written_model_is_what_torch_computes(tmp_path: Path) -> None:
    written, _, _ = run(deep(), tmp_path, drop=2, windows=4, length=64)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        np.testing.assert_allclose(load_decoder(written)(tokens)[0], ReferenceDecoder(written).logits(tokens[0].tolist()), atol=1e-2)
