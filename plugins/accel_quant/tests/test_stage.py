"""What the stage writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmasos_accel_quant import Options, llmasos_accelerate
from llmasos_hookspecs import AccelerationError, AccelerationResult, QuantizedTensor, as_float32
from llmasos_hookspecs.testing import ReferenceDecoder, SandboxContext, TinyCheckpoint, read_folder, tiny_checkpoint

TEXT = np.random.default_rng(9).integers(0, 256, 60).tolist()


def run(checkpoint: TinyCheckpoint, root: Path, **options: object) -> tuple[TinyCheckpoint, AccelerationResult]:
    context = SandboxContext(root=root, base=checkpoint)
    result = llmasos_accelerate(checkpoint, root / "out", Options(**options), context)
    return read_folder(result.path), result


def divergence(base: TinyCheckpoint, found: TinyCheckpoint) -> float:
    p, q = (ReferenceDecoder(each).logits(TEXT).astype(np.float64) for each in (base, found))
    p, q = (each - np.log(np.exp(each).sum(axis=1, keepdims=True)) for each in (p, q))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def test_a_tied_head_gets_its_own_width_and_the_embedding_stays(tmp_path: Path) -> None:
    written, _ = run(tiny_checkpoint("qwen2"), tmp_path, bits=4, method="rtn")
    head, embedding = written.tensor("lm_head.weight"), written.tensor("model.embed_tokens.weight")
    assert isinstance(head, QuantizedTensor)
    assert (head.bits, head.group) == (8, 32)
    assert isinstance(embedding, np.ndarray)
    assert embedding.dtype == np.float16
    assert written.config["tie_word_embeddings"] is False


def test_a_head_of_sixteen_bits_stays_tied(tmp_path: Path) -> None:
    written, _ = run(tiny_checkpoint("qwen2"), tmp_path, head_bits=16)
    assert "lm_head.weight" not in written.names()
    assert written.config["tie_word_embeddings"] is True


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("method", "bits"), [("rtn", 4), ("rtn", 8), ("gptq", 4), ("awq", 8)])
def test_every_linear_is_stored_as_asked(tmp_path: Path, method: str, bits: int, symmetric: bool) -> None:
    checkpoint = tiny_checkpoint("qwen3")
    written, _ = run(checkpoint, tmp_path, bits=bits, group=64, symmetric=symmetric, method=method, windows=2, length=32)
    for name in written.names():
        if name.endswith("_proj.weight"):
            tensor = written.tensor(name)
            assert isinstance(tensor, QuantizedTensor)
            assert (tensor.bits, tensor.group, tensor.symmetric) == (bits, 64, symmetric)


def test_groups_that_do_not_divide_are_told(tmp_path: Path) -> None:
    _, result = run(tiny_checkpoint("llama-biases"), tmp_path, group=64)  # hidden_size 96
    assert result.report["schemes"] == {"8 bits, groups of 32": 12, "8 bits, groups of 64": 2}
    assert "12 weights in 8 bits, groups of 32" in result.report["notes"][0]


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_calibration_beats_rounding_to_nearest(tmp_path: Path, method: str) -> None:
    base = tiny_checkpoint("llama-rope3-tied")
    found = {}
    for each in ("rtn", method):
        (tmp_path / each).mkdir()
        written, _ = run(base, tmp_path / each, bits=4, method=each, windows=16, length=128)
        found[each] = divergence(base, written)
    assert found[method] < 0.8 * found["rtn"]


def test_awq_scales_change_nothing_but_the_rounding(tmp_path: Path) -> None:
    """At 8 bits, where rounding hardly matters, the model with folded scales predicts what the base predicts."""
    for case in ("llama-biases", "qwen3"):
        base = tiny_checkpoint(case)
        (tmp_path / case).mkdir()
        written, _ = run(base, tmp_path / case, bits=8, method="awq", windows=4, length=64)
        norm = "model.layers.0.input_layernorm.weight"
        assert (as_float32(written.tensor(norm)) != as_float32(base.tensor(norm))).any()
        assert divergence(base, written) < 0.02


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    name = "model.layers.1.mlp.up_proj.weight"
    broken = np.array(checkpoint.tensor(name))
    broken[0, 0] = np.nan
    with pytest.raises(AccelerationError, match=rf"{name} that are not finite"):
        run(TinyCheckpoint(config=checkpoint.config, tensors={**checkpoint.tensors, name: broken}), tmp_path)
    assert not (tmp_path / "out").exists()
