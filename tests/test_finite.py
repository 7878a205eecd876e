"""NaN and infinity anywhere in a model are refused in one sentence: by every accelerator before it starts, by every loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import llmasos
from llmasos_hookspecs import CheckpointError
from llmasos_hookspecs.testing import tiny_checkpoint

KINDS = (
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.norm.weight",
    *(
        f"model.layers.1.{part}"
        for part in (
            "input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
            "self_attn.o_proj.weight", "self_attn.q_proj.bias", "self_attn.o_proj.bias", "mlp.gate_proj.weight", "mlp.up_proj.weight",
            "mlp.down_proj.weight", "mlp.down_proj.bias",
        )
    ),
)  # fmt: skip
#: An embedding, a head, a norm, a matrix and a bias: what they share with the others is how they are read.
TYPICAL = {*KINDS[:3], "model.layers.1.self_attn.k_proj.weight", "model.layers.1.mlp.down_proj.bias"}

SHORT = {"windows": 2, "length": 16}
TRAINING = {"use": "distill", "steps": 2, "windows": 4, "held_out": 1, "length": 16}
STAGES: dict[str, list[dict[str, Any]]] = {
    "rtn": [{"use": "quant", "bits": 8}],
    "gptq": [{"use": "quant", "bits": 4, "method": "gptq", **SHORT}],
    "awq": [{"use": "quant", "bits": 4, "method": "awq", **SHORT}],
    "magnitude": [{"use": "prune", "method": "magnitude"}],
    "wanda": [{"use": "prune", "method": "wanda", **SHORT}],
    "sparsegpt": [{"use": "prune", "method": "sparsegpt", **SHORT}],
    "layers": [{"use": "prune", "method": "layers", "drop": 1, **SHORT}],
    "mlp": [{"use": "prune", "method": "mlp", "width": 64, **SHORT}],
    "distill": [{"use": "prune", "method": "layers", "layers": [0]}, TRAINING],
}  # fmt: skip


def damaged(folder: Path, name: str, value: float) -> Path:
    """A tiny llama with biases, one number of one tensor replaced."""
    checkpoint = tiny_checkpoint("llama-biases")
    tensor = np.array(checkpoint.tensors[name])
    tensor.reshape(-1)[len(tensor.reshape(-1)) // 2] = value
    attrs.evolve(checkpoint, tensors={**checkpoint.tensors, name: tensor}).write(folder)
    return folder


def test_the_kinds_are_all_that_the_model_has() -> None:
    """A tensor is of a kind above, or of one that differs only in its layer or in which of q, k, v, gate and up it belongs to."""
    assert set(KINDS) <= set(tiny_checkpoint("llama-biases").names())


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_starts_from_nan(stage: str, tmp_path: Path) -> None:
    """The tensor is named, no stage leaves anything, and nothing lies in the output."""
    folder = damaged(tmp_path / "model", "model.layers.0.mlp.up_proj.weight", np.nan)
    with pytest.raises(CheckpointError, match=r"NaN or infinity in model\.layers\.0\.mlp\.up_proj\.weight"):
        llmasos.accelerate(folder, STAGES[stage], measure=False, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(pytest.param(name, np.nan, id=f"{name}-NaN", marks=[pytest.mark.long] * (name not in TYPICAL)) for name in KINDS),
        *(pytest.param(name, np.inf, id=f"{name}-infinity", marks=[pytest.mark.long] * bool(place)) for place, name in enumerate(KINDS)),
    ],
)
def test_no_tensor_is_passed_over_by_an_accelerator(name: str, value: float, tmp_path: Path) -> None:
    folder = damaged(tmp_path / "model", name, value)
    with pytest.raises(CheckpointError, match=f"in {name}"):
        llmasos.accelerate(folder, STAGES["rtn"], measure=False)


@pytest.mark.parametrize(
    ("name", "loader"),
    [
        pytest.param(name, loader, marks=[pytest.mark.long] * (name not in TYPICAL))
        for loader in ("onnx", "torch", "tf", "openvino")
        for name in KINDS
    ],
)
def test_every_loader_refuses_every_tensor(name: str, loader: str, tmp_path: Path) -> None:
    value = np.nan if KINDS.index(name) % 2 else np.inf
    with pytest.raises(CheckpointError, match=f"NaN or infinity in {name}"):
        llmasos.load_model(damaged(tmp_path / "model", name, value), loader=loader).generate_text("Hello", max_new_tokens=1)


def test_a_teacher_with_nan_is_refused_before_the_first_stage(tmp_path: Path) -> None:
    tiny_checkpoint("llama-biases", folder=tmp_path / "model")
    teacher = damaged(tmp_path / "teacher", "model.norm.weight", np.nan)
    stages = [STAGES["distill"][0], {**STAGES["distill"][1], "teacher": str(teacher)}]
    with pytest.raises(CheckpointError, match=r"teacher holds NaN or infinity in model\.norm\.weight"):
        llmasos.accelerate(tmp_path / "model", stages, measure=False, output=tmp_path / "out")


def test_a_model_whose_logits_overflow_fails_the_run_and_every_request(tmp_path: Path) -> None:
    """Finite weights, too large: there is nothing to measure, and no text."""
    checkpoint = tiny_checkpoint("llama")
    large = {"model.norm.weight": np.float32(1e30), "lm_head.weight": np.float32(1e30)}
    tensors = {name: tensor * large.get(name, np.float32(1)) for name, tensor in checkpoint.tensors.items()}
    attrs.evolve(checkpoint, tensors=tensors).write(tmp_path / "model")
    with pytest.raises(llmasos.LLMasOSError, match=r'"base" failed: .*NaN or infinity'):
        llmasos.accelerate(tmp_path / "model", [{"use": "quant", "bits": 8}], windows=1, length=16, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with llmasos.load_model(tmp_path / "model", loader="torch") as model, pytest.raises(llmasos.LLMasOSError, match="NaN or infinity"):
        model.generate_text("Hello", max_new_tokens=2)


def test_what_a_stage_reports_is_json_for_every_reader(tmp_path: Path) -> None:
    """A learning rate that makes training diverge: its losses are NaN, the report holds null and no NaN."""
    tiny_checkpoint("llama", folder=tmp_path / "model")
    training = {**TRAINING, "steps": 6, "learning_rate": 1e30, "warmup": 0, "evaluate_every": 2}
    llmasos.accelerate(tmp_path / "model", [STAGES["distill"][0], training], measure=False, output=tmp_path / "out")

    def refuse(word: str) -> None:
        raise AssertionError(f"The file holds {word}.")

    for file in ("report.json", "llmasos.json"):
        json.loads((tmp_path / "out" / file).read_text(), parse_constant=refuse)
    curves = json.loads((tmp_path / "out" / "report.json").read_text())["stages"][1]["report"]["curves"]
    assert None in [loss for _, loss in next(iter(curves.values()))["training"]]
