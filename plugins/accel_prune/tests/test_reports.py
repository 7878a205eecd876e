"""What the user reads of pruning, each whole; and what is chosen, against plain loops."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from llmasos_accel_prune import Options, llmasos_accelerate
from llmasos_accel_prune.layers import choose_layers
from llmasos_accel_prune.mlp import fewer_columns
from llmasos_accel_prune.plan import plan_pruning
from llmasos_accel_prune.sparsity import least, magnitude, sparsegpt, wanda
from llmasos_hookspecs import AccelerationError, StagePlan
from llmasos_hookspecs.testing import SandboxContext, TinyCheckpoint, read_folder, tiny_checkpoint
from llmasos_torch_decoder import load_decoder

DECODER = tiny_checkpoint("llama").decoder
CLEAN = {"quantized": False, "masked": False}
NOTE = (
    "A mask keeps every matrix at its size, and no CPU kernel skips its zeros: it makes nothing faster and nothing smaller here. It serves "
    "research, and hardware with 2:4 kernels."
)


def problems(decoder: Any = DECODER, state: Any = CLEAN, **options: Any) -> Sequence[str]:
    return plan_pruning(decoder, Options(**options), state).problems


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop": 2}, "2 of 2 layers cannot be dropped; drop at least 1 and leave at least 1."),
        ({"drop": 0}, "0 of 2 layers cannot be dropped; drop at least 1 and leave at least 1."),
        ({}, 'method = "layers" takes either drop, how many layers, or layers, their numbers; set one of them.'),
        ({"drop": 1, "layers": (0,)}, 'method = "layers" takes either drop, how many layers, or layers, their numbers; set one of them.'),
        ({"layers": (2,)}, "layers names [2], and the model's layers are 0 to 1."),
        ({"layers": (-1,)}, "layers names [-1], and the model's layers are 0 to 1."),
        ({"method": "mlp"}, 'width = None cannot be; method = "mlp" takes a multiple of 16 below the 128 that the MLPs have.'),
        ({"method": "mlp", "width": 0}, 'width = 0 cannot be; method = "mlp" takes a multiple of 16 below the 128 that the MLPs have.'),
        ({"method": "mlp", "width": 128}, 'width = 128 cannot be; method = "mlp" takes a multiple of 16 below the 128 that the MLPs have.'),
        ({"method": "mlp", "width": 24}, 'width = 24 cannot be; method = "mlp" takes a multiple of 16 below the 128 that the MLPs have.'),
        ({"method": "wanda", "sparsity": 1.0}, "sparsity = 1.0 cannot be; take a share above 0 and below 1."),
        ({"method": "wanda", "sparsity": 0.0}, "sparsity = 0.0 cannot be; take a share above 0 and below 1."),
        (
            {"method": "wanda", "pattern": "2:4", "sparsity": 0.7},
            'pattern = "2:4" zeroes half of the weights, and sparsity is 0.7; take it away or set 0.5.',
        ),
        ({"method": "wanda", "drop": 3}, 'drop = 3 says nothing to method = "wanda"; take it away or choose another method.'),
        (
            {"method": "mlp", "width": 64, "layers": (1,)},
            'layers = (1,) says nothing to method = "mlp"; take it away or choose another method.',
        ),
        ({"drop": 1, "width": 64}, 'width = 64 says nothing to method = "layers"; take it away or choose another method.'),
        ({"drop": 1, "sparsity": 0.3}, 'sparsity = 0.3 says nothing to method = "layers"; take it away or choose another method.'),
        ({"drop": 1, "pattern": "2:4"}, "pattern = '2:4' says nothing to method = \"layers\"; take it away or choose another method."),
    ],
    ids=str,
)
def test_problems_of_a_plan(options: dict[str, Any], said: str) -> None:
    assert problems(**options) == (said,)


def test_problems_of_what_was_done_before_and_of_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = "Pruning reads and changes float weights, and these are quantised; put prune before quant."
    masked = "The weights are masked already, and a second mask would choose among the zeros of the first; take one away."
    assert problems(state={"quantized": True, "masked": True}, drop=1) == (quantized,)
    assert problems(state={"quantized": True, "masked": True}, method="magnitude") == (quantized, masked)
    odd = attrs.evolve(DECODER, hidden_size=66, intermediate_size=130, num_heads=1, head_dim=34)
    assert problems(odd, method="magnitude", pattern="2:4") == tuple(
        f'pattern = "2:4" needs columns in fours, and {name} is {columns}; use pattern = "unstructured".'
        for name, columns in (("hidden_size", 66), ("num_heads * head_dim", 34), ("intermediate_size", 130))
    )
    assert problems(odd, method="magnitude") == ()
    assert problems(layers=(1, 1, 0)) == (
        "3 of 2 layers cannot be dropped; drop at least 1 and leave at least 1.",
        "layers = [1, 1, 0] names a layer twice; name each once.",
    )
    monkeypatch.setitem(sys.modules, "llmasos_torch_decoder", None)
    assert problems(method="mlp", width=64) == (
        'method = "mlp" runs the model on calibration text, which needs torch; pip install "llmasos-accel-prune[calibrated]", or name the '
        "layers or mask by magnitude.",
    )


def test_plans_that_can_be() -> None:
    """What they leave, and the decoder that it will be."""
    deep = attrs.evolve(DECODER, num_layers=6)
    structure = StagePlan(stage="structure", calibration=True)
    assert plan_pruning(deep, Options(drop=2), CLEAN) == attrs.evolve(structure, decoder=attrs.evolve(deep, num_layers=4))
    assert plan_pruning(deep, Options(drop=5), CLEAN) == attrs.evolve(structure, decoder=attrs.evolve(deep, num_layers=1))
    named = attrs.evolve(structure, decoder=attrs.evolve(deep, num_layers=4), calibration=False)
    assert plan_pruning(deep, Options(layers=(0, 5)), CLEAN) == named
    assert plan_pruning(deep, Options(method="mlp", width=112), CLEAN) == attrs.evolve(
        structure, decoder=attrs.evolve(deep, intermediate_size=112)
    )
    mask = StagePlan(stage="mask", calibration=True, leaves={"masked": True})
    assert plan_pruning(deep, Options(method="wanda", pattern="2:4", sparsity=0.5), CLEAN) == mask
    assert plan_pruning(deep, Options(method="magnitude"), CLEAN) == attrs.evolve(mask, calibration=False)


def run(checkpoint: TinyCheckpoint, root: Path, **options: Any) -> tuple[TinyCheckpoint, dict[str, Any], SandboxContext]:
    root.mkdir(exist_ok=True)
    context = SandboxContext(root=root, base=checkpoint)
    result = llmasos_accelerate(checkpoint, root / "out", Options(windows=3, length=16, **options), context)
    return read_folder(result.path), dict(result.report), context


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({"drop": 1}, "choose 1 layers to drop"),
        ({"method": "mlp", "width": 64}, "narrow the MLPs on 3 windows"),
        ({"method": "sparsegpt"}, "sparsegpt on 3 windows"),
        ({"method": "wanda", "sparsity": 0.25}, "wanda on 3 windows"),
        ({"method": "magnitude"}, ""),
    ],
)
def test_reports_progress_and_notes(options: dict[str, Any], label: str, tmp_path: Path) -> None:
    written, report, context = run(tiny_checkpoint("llama"), tmp_path, **options)
    total = 1 if "drop" in options else 2
    assert [(each.label, each.done, each.total, each.unit) for each in context.displays] == (
        [(label, total, total, "layers")] if label else []
    )
    if "drop" in options:
        (chosen,) = report.pop("rounds")
        assert report == {"method": "layers", "dropped": [chosen["layer"]], "kept": [1 - chosen["layer"]]}
        assert 0 < chosen["influence"] < 1
        assert context.notes == []
    elif options["method"] == "mlp":
        assert len(report.pop("lost")) == 2
        assert (report, context.notes) == ({"method": "mlp", "width": 64}, [])
    else:
        share = report.pop("sparsity")
        weights = [np.asarray(written.tensor(name)) for name in written.names() if name.endswith("_proj.weight")]
        assert share == sum(int((weight == 0).sum()) for weight in weights) / sum(weight.size for weight in weights)
        assert report == {"method": options["method"], "pattern": "unstructured", "notes": [NOTE]}
        assert context.notes == [NOTE]


def test_the_share_that_is_lost_is_that_of_the_output_after_the_fit() -> None:
    """The columns that are kept reproduce what all of them computed, as well as their number allows, by least squares with the damping."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 40)) @ (np.eye(40) + 0.3 * rng.standard_normal((40, 40)))
    weight, moments = rng.standard_normal((8, 40)), x.T @ x / 600
    kept, fitted = fewer_columns(weight, moments, 24)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert fitted.shape == (8, 24)
    damped = moments + 0.01 * np.trace(moments) / 40 * np.eye(40)
    expected = np.linalg.solve(damped[np.ix_(kept, kept)], damped[kept] @ weight.T).T
    np.testing.assert_allclose(fitted, expected, rtol=1e-6, atol=1e-8)


def test_columns_go_one_after_the_other_by_what_the_rest_cannot_make_up_for() -> None:
    """As a search that refits after each, in few columns."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 12)) @ (np.eye(12) + 0.5 * rng.standard_normal((12, 12)))
    weight, moments = rng.standard_normal((5, 12)), x.T @ x / 300
    damped = moments + 0.01 * np.trace(moments) / 12 * np.eye(12)
    left = list(range(12))

    def lost(columns: list[int]) -> float:
        fit = np.linalg.solve(damped[np.ix_(columns, columns)], damped[columns] @ weight.T).T
        error = weight.copy()
        error[:, columns] -= fit
        return float(np.vdot(error @ damped, error))

    while len(left) > 7:
        left.remove(min(left, key=lambda column: lost([each for each in left if each != column])))
    assert fewer_columns(weight, moments, 7)[0].tolist() == left


def test_layers_are_chosen_by_the_turn_that_they_give_to_their_input() -> None:
    """One minus the cosine, averaged over all tokens, measured again without those that were dropped."""
    decoder = load_decoder(tiny_checkpoint("llama"))
    windows = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (3, 16)))
    with torch.no_grad():
        states = decoder.hidden_states(windows)
        turns = [
            1 - float(torch.nn.functional.cosine_similarity(before, after, dim=-1).double().mean())
            for before, after in itertools.pairwise(states)
        ]

    class NoProgress:
        done = 0.0

        def advance(self, amount: float = 1) -> None:
            self.done += amount

    progress = NoProgress()
    (chosen,) = choose_layers(decoder, windows, 1, progress)
    assert (chosen["layer"], progress.done) == (int(np.argmin(turns)), 1)
    assert chosen["influence"] == pytest.approx(min(turns), rel=1e-4)
    for parameter in decoder.parameters():
        parameter.data.fill_(torch.inf)
    with pytest.raises(AccelerationError) as caught:
        choose_layers(decoder, windows, 1, progress)
    assert str(caught.value) == "What the model computes on the calibration text is NaN or infinite; its weights are finite and too large."


def test_how_many_weights_go() -> None:
    """The nearest whole number, in each row or in the whole matrix; none where that is none."""
    scores = np.array([[3, 1, 2, 4, 5], [9, 8, 7, 6, 10]], np.float32)
    assert least(scores, 0.05, "unstructured").sum() == 0
    assert least(scores, 0.5, "unstructured").tolist() == [[False, True, True, False, False], [False, False, True, True, False]]
    assert least(scores, 0.7, "unstructured").sum(axis=1).tolist() == [4, 4]
    assert magnitude(-scores, 0.4, "unstructured").tolist() == [[0, 0, 0, 0, -5], [-9, -8, -7, -6, -10]]
    assert wanda(scores, np.array([1, 100, 1, 1, 1], np.float32), 0.4, "unstructured").tolist() == [[0, 1, 0, 4, 5], [9, 8, 0, 0, 10]]
    fours = np.array([[3, -1, 2, 4, 8, 7, -6, 5]], np.float32)
    assert magnitude(fours, 0.5, "2:4").tolist() == [[3, 0, 0, 4, 8, 7, 0, 0]]
    assert wanda(fours, np.array([1, 100, 1, 1, 1, 0, 1, 1], np.float32), 0.5, "2:4").tolist() == [[0, -1, 0, 4, 8, 0, -6, 0]]


def test_sparsegpt_removes_the_least_error_across_a_block() -> None:
    """Where columns do not lean on each other nothing else changes: what goes has the least square, times the column's moment, of all."""
    weight = np.random.default_rng(3).standard_normal((6, 20)).astype(np.float32)
    moments = np.linspace(0.5, 4, 20).astype(np.float32)
    found = sparsegpt(weight, np.diag(moments), 0.3, "unstructured")
    scores = np.square(weight) * (moments + 0.01 * moments.mean())
    expected = np.where(scores < np.sort(scores, axis=None)[36], 0, weight)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    halved = sparsegpt(weight, np.diag(moments), 0.5, "2:4")
    assert ((halved.reshape(-1, 4) == 0).sum(axis=1) == 2).all()
    np.testing.assert_allclose(halved[halved != 0], weight[halved != 0], rtol=1e-5)
