"""Quantised checkpoints are computed at the precision they are stored in."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from llmasos_backend_onnx import Options, cpu
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_backend_onnx.integer import round_rows
from llmasos_backend_onnx.memory import predict
from llmasos_backend_onnx.packing import quantize
from llmasos_hookspecs import ConfigError, EngineLimits, QuantizedTensor, Row

TOKENS = np.random.default_rng(5).integers(0, 101, 24).tolist()
Start = Callable[..., OnnxEngine]
FAMILIES = ("llama", "llama-biases-linear", "llama-wide-heads", "mistral-window", "qwen2", "qwen3")


def q4_1(weights: np.ndarray) -> QuantizedTensor:
    """GGUF's Q4_1: blocks of 32, a float scale and a float minimum."""
    rows, columns = weights.shape
    blocks = weights.reshape(rows, -1, 32)
    low, high = blocks.min(axis=2), blocks.max(axis=2)
    scales = (high - low) / np.float32(15)
    codes = np.clip(np.rint((blocks - low[..., None]) / scales[..., None]), 0, 15).astype(np.uint8)
    return QuantizedTensor(codes=codes.reshape(rows, columns), scales=scales, bits=4, group=32, minimums=low)


def q8_0(weights: np.ndarray) -> QuantizedTensor:
    return quantize(weights, 8, 32)


def int4_zeros(weights: np.ndarray) -> QuantizedTensor:
    return quantize(weights, 4, 32)


def int8_rows(weights: np.ndarray) -> QuantizedTensor:
    """One scale a row."""
    scales = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    codes = (np.rint(weights / scales) + 128).astype(np.uint8)
    return QuantizedTensor(codes=codes, scales=scales, bits=8, group=weights.shape[1])


FORMS = {"q4_1": q4_1, "q8_0": q8_0, "int4-zeros": int4_zeros, "int8-rows": int8_rows}


@functools.cache  # so that what transformers makes of it is computed once too
def quantized(checkpoint, form: str, *, head: str | None = None):
    replaced = {}
    for name, tensor in checkpoint.tensors.items():
        if name.endswith("_proj.weight"):
            replaced[name] = FORMS[form](tensor)
        elif head and tensor.ndim == 2:
            replaced[name] = FORMS[head](tensor)
    return checkpoint.replaced(replaced)


def divergence(logits: np.ndarray, reference: np.ndarray) -> float:
    """Mean KL divergence from the reference's distribution, in nats."""
    one, other = (x - x.max(axis=-1, keepdims=True) for x in (reference.astype(np.float64), logits.astype(np.float64)))
    one, other = (x - np.log(np.exp(x).sum(axis=-1, keepdims=True)) for x in (one, other))
    return float((np.exp(one) * (one - other)).sum(axis=-1).mean())


@pytest.mark.parametrize(
    ("family", "form", "kernels"),
    [
        pytest.param(family, form, kernels, marks=pytest.mark.long if family != "llama" and kernels == "onnx" else ())
        for kernels in ("auto", "onnx")
        for family, form in [
            *((family, "q4_1") for family in FAMILIES),
            *(("llama", form) for form in ("q8_0", "int4-zeros", "int8-rows")),
            ("qwen3", "q8_0"),
        ]
    ],
)
def test_auto_computes_what_is_stored(checkpoints, start: Start, family: str, form: str, kernels: str) -> None:
    """With the kernels that are installed, if any, and with ONNX Runtime's own."""
    checkpoint = checkpoints[family]
    stored = quantized(checkpoint, form, head="q8_0")
    engine = start(stored, Options(kernels=kernels))
    assert engine.info.dtype == ("int4" if "4" in form else "int8")
    assert engine.info.notes == ()
    reference = stored.reference(TOKENS)
    slot = engine.open()
    prompt = engine.step([Row(slot, TOKENS[:12], 0, "all")])[0].copy()
    decoded = [engine.step([Row(slot, [TOKENS[at]], at)])[0][0].copy() for at in range(12, 24)]
    logits = np.concatenate([prompt, decoded])
    # What is left is the rounding of activations to 8 bits, which these tiny models magnify; rounding 4-bit weights anew costs far more.
    assert divergence(logits, reference) < 5e-3
    if "4" in form:
        assert divergence(checkpoint.reference(TOKENS), reference) > 5 * divergence(logits, reference)


@pytest.mark.parametrize("form", list(FORMS))
def test_fp32_is_the_dequantised_model(checkpoints, start: Start, form: str) -> None:
    stored = quantized(checkpoints["qwen2"], form, head="q8_0")
    engine = start(stored, Options(precision="fp32"))
    logits = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
    np.testing.assert_allclose(logits, stored.reference(TOKENS), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(("activations", "most", "least"), [("fp32", 2e-2, 0), ("int16", 2e-2, 0), ("int8", np.inf, 5e-2)])
def test_a_prompt_may_keep_its_activations_in_more_bits(checkpoints, start: Start, activations: str, most: float, least: float) -> None:
    stored = quantized(checkpoints["llama"], "q4_1")  # with a float head, so that nothing else is rounded
    engine = start(stored, Options(prefill_activations=activations))
    logits = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
    assert least <= np.abs(logits - stored.reference(TOKENS)).max() < most


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", list(FORMS))
def test_int8_gemms_lose_next_to_nothing(checkpoints, start: Start, family: str, form: str) -> None:
    """A prompt in 16 bits, with biases and norms and whatever else a family has."""
    stored = quantized(checkpoints[family], form, head="q8_0")
    engine = start(stored, Options(prefill_activations="int16"))
    logits = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
    assert divergence(logits, stored.reference(TOKENS)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_channel_has_one_scale_a_row(checkpoints, start: Start, family: str) -> None:
    """Prompts and what follows them; for float models and, with a note, for quantised ones."""
    for checkpoint in (checkpoints[family], quantized(checkpoints[family], "q4_1", head="q8_0")):
        engine = start(checkpoint, Options(precision="int8_channel"))
        assert engine.info.dtype == "int8"
        assert any("to 8 bits with one scale a row" in note for note in engine.info.notes)
        reference = checkpoint.reference(TOKENS)
        slot = engine.open()
        prompt = engine.step([Row(slot, TOKENS[:12], 0, "all")])[0].copy()
        decoded = [engine.step([Row(slot, [TOKENS[at]], at)])[0][0].copy() for at in range(12, 24)]
        assert 0 < divergence(np.concatenate([prompt, decoded]), reference) < 1e-2


def test_rows_hold_their_weights_and_zeros() -> None:
    weights = np.random.default_rng(2).normal(size=(6, 40)).astype(np.float32)
    weights[2] = 0
    weights[3] *= 1e-8
    for bits, error in ((8, 0.5 / 127), (16, 0.5 / 127 / 254)):
        found = round_rows(weights, bits=bits).dequantize()
        assert (np.abs(found - weights).max(axis=1) <= 1.01 * error * np.abs(weights).max(axis=1)).all()


@pytest.mark.parametrize(
    ("flags", "memory", "expected"),
    [("avx512f avx512_vnni", None, "int8"), ("amx_tile amx_int8", 64 << 30, "int16"), ("amx_tile amx_int8", 1 << 20, "fp32")],
)
def test_auto_takes_what_the_machine_is_fast_at(monkeypatch, checkpoints, flags: str, memory: int | None, expected: str) -> None:
    monkeypatch.setattr(cpu, "_flags", lambda: frozenset(flags.split()))
    limits = EngineLimits(threads=1, max_sequences=1, memory=memory)
    assert cpu.prefill_activations(Options(), checkpoints["llama"].decoder, limits) == expected


@pytest.mark.parametrize("option", [{"precision": "int8_channel"}, {"prefill_activations": "int16"}])
def test_a_cpu_that_cuts_sums_of_bytes_is_refused(monkeypatch, checkpoints, start: Start, option: dict[str, str]) -> None:
    monkeypatch.setattr(cpu, "_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    with pytest.raises(ConfigError, match=r"this CPU has no VNNI.*leave .* at 'auto'"):
        start(checkpoints["llama"], Options(**option))


_OPTIONS = [{}, *({"prefill_activations": each} for each in ("fp32", "int16", "int8")), {"precision": "int8_channel"}]


@pytest.mark.parametrize(
    ("kernels", "form", "options"),
    [
        pytest.param(kernels, form, options, marks=pytest.mark.long if options and (kernels, form) != ("auto", "q4_1") else ())
        for kernels in ("auto", "onnx")
        for form in (None, "q4_1", "q8_0")
        for options in _OPTIONS
    ],
)
def test_the_weights_take_what_was_foretold(checkpoints, start: Start, form: str | None, options: dict[str, str], kernels: str) -> None:
    options = {**options, "kernels": kernels}
    checkpoint = checkpoints["llama"] if form is None else quantized(checkpoints["llama"], form, head="q8_0")
    engine = start(checkpoint, Options(**options))
    estimate = predict(checkpoint, Options(**options), EngineLimits(threads=1, max_sequences=1))
    assert estimate is not None
    # What makes the sums of blocks is not foretold; in a model of this size it weighs an eighth.
    assert estimate.weight_bytes == pytest.approx(engine.info.weight_bytes, rel=0.15 if form == "q4_1" else 0.03)


@pytest.mark.parametrize("kernels", ["auto", "onnx"])
@pytest.mark.parametrize("form", list(FORMS))
def test_a_row_in_a_batch_is_bitwise_identical_to_the_row_alone(checkpoints, start: Start, form: str, kernels: str) -> None:
    engine = start(quantized(checkpoints["llama"], form), Options(kernels=kernels))
    slots = [engine.open() for _ in range(4)]
    for index, slot in enumerate(slots):
        engine.step([Row(slot, TOKENS[: 5 + 3 * index], 0)])
    rows = [Row(slot, [TOKENS[index]], 5 + 3 * index) for index, slot in enumerate(slots)]
    together = [result.copy() for result in engine.step(rows)]
    for index, (row, expected) in enumerate(zip(rows, together, strict=True)):
        engine.truncate(row.slot, 5 + 3 * index)
        np.testing.assert_array_equal(engine.step([row])[0], expected)


@pytest.mark.parametrize("mixed", [("q4_1", "q8_0"), ("q4_1", "int4-zeros"), ("q8_0", None)])
def test_layers_stored_in_several_forms(checkpoints, start: Start, mixed: tuple[str, str | None]) -> None:
    """Of q, k and v one may be stored in more bits than the others, or in floats."""
    checkpoint = quantized(checkpoints["llama"], mixed[0])
    names = [name for name in checkpoint.tensors if "v_proj" in name or "up_proj" in name]
    floats = checkpoints["llama"].tensors
    stored = checkpoint.replaced({name: FORMS[mixed[1]](floats[name]) if mixed[1] else floats[name] for name in names})
    engine = start(stored, Options())
    logits = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
    assert divergence(logits, stored.reference(TOKENS)) < 5e-3


@pytest.mark.parametrize("family", ["llama", "qwen3-biases"])
@pytest.mark.parametrize(("precision", "limit"), [("int8", 1e-2), ("int4", 0.5)])
def test_a_float_model_is_quantised_where_asked(checkpoints, start: Start, family: str, precision: str, limit: float) -> None:
    checkpoint = checkpoints[family]
    engine = start(checkpoint, Options(precision=precision))
    assert engine.info.dtype == precision
    assert any("rounded" in note for note in engine.info.notes)
    logits = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
    assert divergence(logits, checkpoint.reference(TOKENS)) < limit
