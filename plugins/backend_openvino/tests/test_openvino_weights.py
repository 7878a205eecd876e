"""Stored codes are computed from as they are; what is foreseen of their memory is what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_backend_openvino import Options, cpu
from llmasos_backend_openvino.cpu import has_bfloat16
from llmasos_backend_openvino.matrices import CodeMatrix, FloatMatrix, matrix_of, stacked
from llmasos_backend_openvino.memory import predict
from llmasos_hookspecs import ConfigError, QuantizedTensor, Row
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_hookspecs.testing.checkpoints import quantize

needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="OpenVINO computes no bfloat16 on this CPU")
TOKENS = [int(token) for token in np.random.default_rng(2).integers(0, 256, 40)]
LAYOUTS = [(bits, form, 16 if bits % 2 else 64, form != "zeros") for bits in (2, 3, 4, 5, 8) for form in ("symmetric", "zeros", "minimums")]


def coded(bits: int, form: str, group: int, **config: Any) -> Any:
    """A llama whose every matrix is stored in codes, some groups of which are all one value."""
    checkpoint = tiny_checkpoint("llama", **config)
    tensors: dict[str, Any] = {}
    for name, tensor in checkpoint.tensors.items():
        if tensor.ndim == 2:
            tensor = tensor.copy()
            tensor[:3, :group] = 0.25
            tensor = quantize(tensor, bits, group, form)
            if form == "minimums":  # as GGUF stores such a block
                flat = np.ptp(tensor.codes.reshape(tensor.shape[0], -1, group), axis=-1) == 0
                tensor = attrs.evolve(tensor, scales=np.where(flat, np.float32(0), tensor.scales))
        tensors[name] = tensor
    return attrs.evolve(checkpoint, tensors=tensors)


def logits(engine: Any) -> Any:
    return np.array(engine.step([Row(engine.open(), TOKENS, 0, "all")])[0])


def error(got: Any, want: Any) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize(("bits", "form", "group", "tied"), LAYOUTS)
def test_codes_are_computed_from_exactly(start: Any, bits: int, form: str, group: int, tied: bool) -> None:
    """The logits are those of the dequantised weights to the rounding of float32, whatever the width, the zeros and the groups."""
    checkpoint = coded(bits, form, group, tie_word_embeddings=tied)
    engine = start(checkpoint)
    assert engine.info.dtype == ("int4" if bits <= 4 else "int8")
    assert error(logits(engine), ReferenceDecoder(checkpoint).logits(TOKENS)) < 3e-6


def test_parts_that_are_stored_otherwise_are_multiplied_apart(start: Any) -> None:
    """Queries in 4 bits, keys in 8, values in floats, a gate in other groups than the way up."""
    checkpoint = tiny_checkpoint("llama")
    tensors: dict[str, Any] = dict(checkpoint.tensors)
    for name, bits, group in (("self_attn.q_proj", 4, 32), ("self_attn.k_proj", 8, 32), ("mlp.gate_proj", 4, 16), ("mlp.up_proj", 4, 32)):
        whole = f"model.layers.0.{name}.weight"
        tensors[whole] = quantize(tensors[whole], bits, group, "minimums")
    checkpoint = attrs.evolve(checkpoint, tensors=tensors)
    assert error(logits(start(checkpoint)), ReferenceDecoder(checkpoint).logits(TOKENS)) < 3e-6


def test_groups_that_do_not_divide_the_columns_become_floats(start: Any) -> None:
    """A last group that is shorter is kept to the value, in float32."""
    checkpoint = coded(8, "symmetric", 32)
    name = "model.layers.1.mlp.up_proj.weight"
    codes = np.random.default_rng(0).integers(0, 256, (128, 64), np.uint8)
    uneven = QuantizedTensor(codes=codes, scales=np.full((128, 2), 0.002, np.float32), bits=8, group=48)
    checkpoint = attrs.evolve(checkpoint, tensors={**checkpoint.tensors, name: uneven})
    matrix = matrix_of(uneven, "f32")
    assert isinstance(matrix, FloatMatrix)
    assert np.array_equal(matrix.values, uneven.dequantize())
    assert error(logits(start(checkpoint)), ReferenceDecoder(checkpoint).logits(TOKENS)) < 3e-6


def test_matrices_are_stacked_only_where_their_forms_agree() -> None:
    """Neighbours of one form become one matrix; their rows keep their order."""
    rng = np.random.default_rng(0)
    floats = [rng.standard_normal((4, 32)).astype(np.float32) for _ in range(3)]
    four, eight = (matrix_of(quantize(floats[0], bits, 16), "f32") for bits in (4, 8))
    plain = [matrix_of(each, "f32") for each in floats]
    found = stacked([four, four, eight, *plain])
    assert [type(each) for each in found] == [CodeMatrix, CodeMatrix, FloatMatrix]
    assert np.array_equal(found[2].values, np.concatenate(floats))
    assert np.array_equal(found[0].codes, np.concatenate([four.codes, four.codes]))


@needs_bfloat16
def test_bfloat16_keeps_stored_codes_and_rounds_floats(start: Any) -> None:
    """Codes differ from float32 by the rounding of activations alone; half-width floats take half the memory."""
    checkpoint = coded(4, "minimums", 32)
    engine = start(checkpoint, {"precision": "bf16"})
    assert engine.info.dtype == "int4"
    assert engine.info.weight_bytes == start(checkpoint).info.weight_bytes
    assert 1e-5 < error(logits(engine), ReferenceDecoder(checkpoint).logits(TOKENS)) < 0.05
    plain = tiny_checkpoint("llama")
    half = start(plain, {"precision": "bf16"}).info
    assert half.dtype == "bfloat16"
    assert half.weight_bytes < 0.51 * start(plain).info.weight_bytes


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=needs_bfloat16)])
@pytest.mark.parametrize("case", ["llama", "llama-biases", "qwen2", "qwen3", "llama-q8", "llama-q4-zeros", "llama-q4-minimums"])
def test_memory_is_foreseen(start: Any, case: str, precision: Any) -> None:
    """``predict`` tells weights and cache to the byte where all layers are alike."""
    checkpoint = tiny_checkpoint(case)
    info, foreseen = start(checkpoint, {"precision": precision}).info, predict(checkpoint, Options(precision=precision))
    assert foreseen is not None
    assert (foreseen.weight_bytes, foreseen.kv_bytes_per_token) == (info.weight_bytes, info.kv_bytes_per_token)


def test_a_table_of_four_bits_is_held_twice(start: Any) -> None:
    """Once in whole bytes to look rows up in, once packed to give the logits."""
    checkpoint = coded(4, "symmetric", 32, tie_word_embeddings=True)
    foreseen = predict(checkpoint, Options(precision="f32"))
    assert foreseen is not None
    assert foreseen.weight_bytes == start(checkpoint).info.weight_bytes


def test_bfloat16_is_refused_where_the_cpu_has_none(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO would compute in float32 and take the cache for another."""
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: False)
    with pytest.raises(ConfigError, match="set precision to 'auto'"):
        start(tiny_checkpoint("llama"), {"precision": "bf16"})


@pytest.mark.parametrize(
    ("flags", "able", "chosen"),
    [({"amx_bf16"}, True, "bf16"), ({"avx512_bf16"}, True, "bf16"), ({"amx_bf16"}, False, "f32"), ({"avx512f"}, True, "f32")],
)
def test_auto_is_bfloat16_where_the_cpu_has_units_for_it(monkeypatch: pytest.MonkeyPatch, flags: set[str], able: bool, chosen: str) -> None:
    """Matrix units decide, and OpenVINO's word that it uses them."""
    monkeypatch.setattr(cpu, "_flags", lambda: frozenset(flags))
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: able)
    assert cpu.chosen_precision(Options()) == chosen


def test_a_folder_of_exports_is_not_foreseen(tmp_path: Path) -> None:
    """Formats without named tensors are not this loader's."""
    assert predict(attrs.evolve(tiny_checkpoint("llama"), format="onnx"), Options()) is None
