"""Stored codes of decoders beyond the plain form: rows of fused tensors, moved rows, heads with zeros, norms with biases."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import pytest

from llmasos_backend_onnx import Options
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_backend_onnx.heads import ZERO, HeadOrder, chosen_rows
from llmasos_backend_onnx.integer import bound_of_norm
from llmasos_hookspecs import Rope, Row
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint, quantize, tiny_checkpoint

TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 256, 40)]

CHECKPOINTS = {
    "cohere2": lambda: tiny_checkpoint("cohere2"),
    "gemma2": lambda: tiny_checkpoint("gemma2"),
    "gpt_neox": lambda: tiny_checkpoint("gpt_neox"),
    "llama, heads of 24": lambda: tiny_checkpoint("llama", head_dim=24),
    "olmo2, heads of 24": lambda: tiny_checkpoint("olmo2", head_dim=24, attention_bias=True),
    "phi": lambda: tiny_checkpoint("phi"),
}
#: Options -> largest relative error: what rounding activations to 8 bits, to 16 bits and not at all may cost.
WAYS = {
    "fp32": (Options(precision="fp32"), 2e-6),
    "8 bits": (Options(prefill_activations="int8"), 0.04),
    "16 bits": (Options(prefill_activations="int16"), 2e-3),
    "one scale a row": (Options(precision="int8_channel"), 0.05),
}


def stored(made: TinyCheckpoint, bits: int, form: str) -> TinyCheckpoint:
    """The same model with its matrices as codes; embedding and head in 8 bits, as GGUF files have them."""
    names = made.decoder.names
    outer = {f"{names.embedding}.weight", f"{names.head}.weight"}
    codes = {
        name: quantize(tensor, 8) if name in outer else quantize(tensor, bits, form=form)
        for name, tensor in made.tensors.items()
        if tensor.ndim == 2
    }
    return attrs.evolve(made, tensors={**made.tensors, **codes})


@pytest.mark.parametrize(
    ("bits", "form", "way"),
    [
        # In each form, and in each way; ``make test-long`` has each form in each way.
        pytest.param(bits, form, way, marks=() if way == "8 bits" or form == "minimums" else pytest.mark.long)
        for bits, form in ((8, "symmetric"), (4, "zeros"), (4, "minimums"))
        for way in WAYS
    ],
)
def test_codes_give_the_logits_of_what_they_stand_for(bits: int, form: str, way: str, start: Callable[..., OnnxEngine]) -> None:
    options, limit = WAYS[way]
    for name, make in CHECKPOINTS.items():
        checkpoint = stored(make(), bits, form)
        engine, want = start(checkpoint, options), ReferenceDecoder(checkpoint).logits(TOKENS)
        got = engine.step([Row(engine.open(), TOKENS, 0, "all")])[0]
        assert np.linalg.norm(got - want) <= limit * np.linalg.norm(want), name


@pytest.mark.parametrize("bias", [False, True])
def test_no_element_of_a_norm_passes_its_bound(bias: bool) -> None:
    """Even where a token has a single element, which is what comes nearest; with a slack that leaves most of the codes."""
    random = np.random.default_rng(0)
    gamma, beta = random.normal(1, 0.3, 64).astype(np.float32), random.normal(0, 0.5, 64).astype(np.float32)
    values = np.concatenate([np.eye(64), -np.eye(64), random.normal(0, 1, (50, 64))]) * 1e3
    centred = values - values.mean(-1, keepdims=True)
    normed = centred / centred.std(-1, keepdims=True) * gamma + (beta if bias else 0)
    bound = bound_of_norm(gamma, beta if bias else None)
    assert bound is not None
    assert np.abs(normed).max() <= bound <= 1.1 * np.abs(normed).max()


def test_a_bias_that_dwarfs_the_rest_leaves_codes_for_it() -> None:
    """It is reached by every token: the bound is near it. A weight that does is reached by few: there is no bound."""
    ones, peak = np.ones(64, dtype=np.float32), np.zeros(64, dtype=np.float32)
    peak[7] = 1e4
    assert bound_of_norm(ones, 1e4 * ones) == pytest.approx(1e4 + 8)
    assert bound_of_norm(ones + peak) is not None  # 64 elements are too few for the slack to be passed
    many = np.ones(1 << 14, dtype=np.float32)
    many[7] = 1e4
    assert bound_of_norm(many) is None


@pytest.mark.parametrize("form", ["symmetric", "zeros", "minimums"])
def test_rows_of_codes_are_moved_and_filled_with_zeros(form: str) -> None:
    matrix = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    tensor, rows = quantize(matrix, 4, form=form), np.array([3, ZERO, 0, 5, ZERO])
    taken = chosen_rows(tensor, rows)
    expected = tensor.dequantize()[rows] * (rows != ZERO)[:, None]
    np.testing.assert_array_equal(taken.dequantize(), expected)  # type: ignore[union-attr]  # codes stay codes


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "dim"), [(16, 16), (16, 6), (24, 24), (40, 12), (2, 2), (250, 250)])
def test_elements_that_are_rotated_together_stand_half_a_head_apart(head_dim: int, dim: int, interleaved: bool) -> None:
    """And every element of the head stands somewhere, once."""
    width = -(-head_dim // 16) * 16
    elements = HeadOrder.rotated(Rope(theta=1e4, dim=dim, interleaved=interleaved), head_dim, width).elements
    assert sorted(elements[elements != ZERO]) == list(range(head_dim))
    pairs = list(zip(elements[: dim // 2], elements[width // 2 : width // 2 + dim // 2], strict=True))
    assert pairs == [(2 * i, 2 * i + 1) if interleaved else (i, i + dim // 2) for i in range(dim // 2)]
