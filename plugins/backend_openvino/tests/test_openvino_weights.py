"""Stored codes are computed from as they are; what is foreseen of their memory is what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_backend_openvino import Options, precision
from llmasos_backend_openvino.matrices import CodeMatrix, FloatMatrix, matrix_of, stacked, with_whole_zeros
from llmasos_backend_openvino.memory import predict
from llmasos_backend_openvino.precision import has_bfloat16, rounds_activations
from llmasos_hookspecs import ConfigError, QuantizedTensor, Row
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_hookspecs.testing.checkpoints import quantize

needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="OpenVINO computes no bfloat16 on this CPU")
needs_int8 = pytest.mark.skipif(not rounds_activations(Options()), reason="this CPU has no instructions for int8")
TOKENS = [int(token) for token in np.random.default_rng(2).integers(0, 256, 40)]
#: On each change every form of a width that is packed, and one of a width that is not; every width in the long run.
LAYOUTS = [
    pytest.param(
        bits, form, 16 if bits % 2 else 64, form != "zeros", marks=() if bits == 4 or (bits, form) == (5, "minimums") else pytest.mark.long
    )
    for bits in (2, 3, 4, 5, 8)
    for form in ("symmetric", "zeros", "minimums")
]


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


def values_of(matrix: Any) -> Any:
    """[rows, groups, columns of a group] float64."""
    codes = matrix.codes.reshape(*matrix.scales.shape, -1).astype(np.float64)
    return (codes - matrix.zeros[:, :, None].astype(np.float64)) * matrix.scales[:, :, None]


@pytest.mark.parametrize("bits", [2, 4, 5, 6, 8])
def test_whole_zeros_change_values_by_less_than_a_step_of_8_bits(bits: int) -> None:
    """With zeros of 8 bits no value is off by more than a step of 8 bits over the group and zero, wherever the group lies and if it is of
    one value; whole zeros stay, and 4 bits lose a third of what Q8_0 does."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, (40, 64)).astype(np.uint8)
    scales = rng.uniform(-2, 2, (40, 2)).astype(np.float32)
    scales[0], codes[1] = [1e-30, 1e20], 0
    near = rng.uniform(0, 2**bits - 1, (40, 2)).astype(np.float32)  # the group lies around zero
    for zeros in (near, near - 2**bits, near + 2**bits, near * 1000, near * -1000, np.rint(near)):
        matrix = CodeMatrix(codes, scales, zeros.astype(np.float32), 4 if bits <= 4 else 8)
        whole = with_whole_zeros(matrix)
        assert isinstance(whole, CodeMatrix)
        assert (whole.bits, whole.codes.dtype, whole.zeros.dtype) == (8, np.uint8, np.uint8)
        want, got = values_of(matrix), values_of(whole)
        reach = np.maximum(want.max(-1), 0) - np.minimum(want.min(-1), 0)
        assert (np.abs(got - want).max(-1) <= reach / 255 * 1.001 + 1e-5 * np.abs(want).max(-1)).all()
        if zeros is near and bits == 4:
            of_q8_0 = np.abs(want).max(-1) / 127 / np.sqrt(12)
            assert np.sqrt(((got - want) ** 2).mean(-1) / of_q8_0**2)[2:].mean() < 0.4
        if (zeros == np.rint(near)).all():
            np.testing.assert_allclose(got, want, rtol=1e-6)


@needs_int8
@pytest.mark.parametrize("form", ["symmetric", "zeros", "minimums"])
@pytest.mark.parametrize("bits", [4, 8])
def test_activations_of_8_bits_cost_hardly_anything(start: Any, bits: int, form: str) -> None:
    """They are rounded, for the logits are not those of floats, and with a scale for every 32 the error stays small."""
    checkpoint = coded(bits, form, 32)
    engine = start(checkpoint, {"activations": "int8"})
    assert engine.info.dtype == "int8"
    assert 1e-4 < error(logits(engine), ReferenceDecoder(checkpoint).logits(TOKENS)) < 0.06


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


@pytest.mark.parametrize(
    "options",
    [{"precision": "f32"}, pytest.param({"precision": "bf16"}, marks=needs_bfloat16), {"precision": "f32", "activations": "int8"}],
)
@pytest.mark.parametrize(
    "case",
    [
        "llama-biases",
        "llama-q4-minimums",
        *(pytest.param(case, marks=pytest.mark.long) for case in ("llama", "qwen2", "qwen3", "llama-q8", "llama-q4-zeros")),
    ],
)
def test_memory_is_foreseen(start: Any, case: str, options: dict[str, Any]) -> None:
    """``predict`` tells weights and cache to the byte where all layers are alike."""
    checkpoint = tiny_checkpoint(case)
    info, foreseen = start(checkpoint, options).info, predict(checkpoint, Options(**options))
    assert foreseen is not None
    assert (foreseen.weight_bytes, foreseen.kv_bytes_per_token) == (info.weight_bytes, info.kv_bytes_per_token)


def test_a_table_of_four_bits_is_held_twice(start: Any) -> None:
    """Once in whole bytes to look rows up in, once packed to give the logits; only once where the logits are computed from whole bytes."""
    checkpoint = coded(4, "symmetric", 32, tie_word_embeddings=True)
    for activations in ("float", "int8"):
        foreseen = predict(checkpoint, Options(precision="f32", activations=activations))
        assert foreseen is not None
        assert foreseen.weight_bytes == start(checkpoint, {"activations": activations}).info.weight_bytes


def test_bfloat16_is_refused_where_the_cpu_has_none(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO would compute in float32 and take the cache for another."""
    monkeypatch.setattr(precision, "capabilities", lambda _: frozenset({"FP32"}))
    with pytest.raises(ConfigError, match="set precision to 'auto'"):
        start(tiny_checkpoint("llama"), {"precision": "bf16"})


@pytest.mark.parametrize(
    ("flags", "able", "chosen"),
    [({"amx_bf16"}, True, "bf16"), ({"avx512_bf16"}, True, "bf16"), ({"amx_bf16"}, False, "f32"), ({"avx512f"}, True, "f32")],
)
def test_auto_is_bfloat16_where_the_cpu_has_units_for_it(monkeypatch: pytest.MonkeyPatch, flags: set[str], able: bool, chosen: str) -> None:
    """Matrix units decide, and OpenVINO's word that it uses them."""
    monkeypatch.setattr(precision, "_flags", lambda: frozenset(flags))
    monkeypatch.setattr(precision, "capabilities", lambda _: frozenset({"BF16"} if able else {"FP32"}))
    assert precision.chosen_precision(Options()) == chosen


@pytest.mark.parametrize("flags", [{"avx512_vnni"}, {"avx_vnni"}, {"amx_int8"}, {"avx512f"}])
def test_auto_rounds_activations_where_the_cpu_multiplies_int8(monkeypatch: pytest.MonkeyPatch, flags: set[str]) -> None:
    """Unless a precision is asked for, which then is what all is computed in; and always where it is asked for."""
    monkeypatch.setattr(precision, "_flags", lambda: frozenset(flags))
    assert rounds_activations(Options()) == (flags != {"avx512f"})
    assert not rounds_activations(Options(precision="f32"))
    assert not rounds_activations(Options(activations="float"))
    assert rounds_activations(Options(precision="f32", activations="int8"))


def test_a_folder_of_exports_is_not_foreseen(tmp_path: Path) -> None:
    """Formats without named tensors are not this loader's."""
    assert predict(attrs.evolve(tiny_checkpoint("llama"), format="onnx"), Options()) is None
