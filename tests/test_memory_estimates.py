"""What a loader foresees of a load's memory is what the load then takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llmasos
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_residency.measurements import Measurements

LOADERS: list[dict[str, Any]] = [
    *({"use": "onnx", "precision": precision} for precision in ("auto", "fp32", "int8", "int4")),
    *({"use": "torch", "dtype": dtype} for dtype in ("auto", "bfloat16", "int8", "int4")),
    {"use": "tf"},
    {"use": "openvino", "precision": "f32"},
]


@pytest.fixture(autouse=True)
def nothing_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No earlier load of the same weights corrects what is foreseen."""
    monkeypatch.setattr(Measurements, "find", Measurements(tmp_path).find)


def check(source: str, loader: dict[str, Any]) -> None:
    foreseen = llmasos.resources.plan(source, loader=loader)
    assert not foreseen["measured"]
    with llmasos.load_model(source, loader=loader) as model:
        facts = model.describe()
    assert foreseen["kv_bytes_per_token"] == facts["kv_bytes_per_token"]
    assert foreseen["weights"] == pytest.approx(facts["weight_bytes"], rel=0.1)


@pytest.mark.parametrize(
    ("case", "loader"),
    [*(("llama", loader) for loader in LOADERS), ("qwen3", LOADERS[2]), ("qwen3", LOADERS[6])],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_float_weights(tmp_path: Path, case: str, loader: dict[str, Any]) -> None:
    """Rounded to whatever precision the options name, tied head or not, and kept in as many layouts."""
    pytest.importorskip(f"llmasos_backend_{loader['use']}")
    tiny_checkpoint(case, folder=tmp_path / "model", num_hidden_layers=4, vocab_size=1000)
    check(str(tmp_path / "model"), loader)


@pytest.mark.model
@pytest.mark.parametrize(
    "loader",
    [
        pytest.param(LOADERS[0], id="onnx"),
        # test_layers_by_kernels.py holds what these foresee of codes on each change.
        pytest.param(LOADERS[4], id="torch", marks=pytest.mark.long),
        pytest.param(LOADERS[8], id="tf", marks=pytest.mark.long),
    ],
)
def test_stored_codes(smollm2_gguf: Path, loader: dict[str, Any]) -> None:
    """A file of 4-bit codes with float minimums, whose embedding has more."""
    check(str(smollm2_gguf), loader)
