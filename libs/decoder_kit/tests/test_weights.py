"""Heads in one order of channels, and linear layers taken out of fused tensors."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_decoder_kit.channels import channel_order
from llmasos_decoder_kit.weights import PartReader
from llmasos_hookspecs import QuantizedTensor, Rope, as_float32
from llmasos_hookspecs.reference import rotated
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_hookspecs.testing.checkpoints import quantize


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [16, 6])
def test_scores_are_the_same_with_heads_in_the_order_of_channels(dim: int, interleaved: bool) -> None:
    """Rotating each channel with the one half a head away gives the scores of the family's own pairing, of full and partial heads."""
    rope = Rope(theta=1e4, dim=dim, interleaved=interleaved)
    random = np.random.default_rng(0)
    queries, keys = random.standard_normal((2, 1, 5, 16))  # [heads, tokens, head_dim]
    positions = np.arange(5.0)
    want = rotated(queries, rope, positions, 5)[0] @ rotated(keys, rope, positions, 5)[0].T
    cos, sin = np.ones((5, 8)), np.zeros((5, 8))
    cos[:, : dim // 2], sin[:, : dim // 2] = rope.tables(5)

    def turned(x: Any) -> Any:
        order = channel_order(16, rope)
        first, second = np.split(x[0] if order is None else x[0][:, order], 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    np.testing.assert_allclose(turned(queries) @ turned(keys).T, want, rtol=1e-5, atol=1e-5)


def test_heads_that_are_stored_in_that_order_already_are_not_permuted() -> None:
    assert channel_order(16, Rope(theta=1e4, dim=16)) is None
    assert channel_order(16, None) is None


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("kind", ["gpt_neox", "phi", "llama-biases"])
def test_parts_are_read_in_their_heads_order(kind: str, quantized: bool) -> None:
    """Each row of a part is the stored row that its head and channel name, in fused and in separate tensors, and so is its bias."""
    checkpoint = tiny_checkpoint(kind)
    c = checkpoint.decoder
    parts = c.linears(0)
    module = parts["q"].module
    dense = as_float32(checkpoint.tensor(f"{module}.weight"))
    if quantized:
        codes = quantize(dense, 8, 16, "minimums")
        checkpoint = attrs.evolve(checkpoint, tensors={**checkpoint.tensors, f"{module}.weight": codes})
        dense = codes.dequantize()
    order = channel_order(c.head_dim, c.layer(0).rope)
    (weight, other), bias = PartReader(checkpoint).linear([parts["q"], parts["v"]], [order, None])
    assert isinstance(weight, QuantizedTensor) == quantized
    stored = parts["q"].row_indices() or range(parts["q"].shape[0])
    wanted = [stored[head * c.head_dim + channel] for head in range(c.num_heads) for channel in order or range(c.head_dim)]
    np.testing.assert_array_equal(as_float32(weight), dense[wanted])
    assert other.shape == parts["v"].shape
    assert bias is not None
    np.testing.assert_array_equal(bias[: len(wanted)], as_float32(checkpoint.tensor(f"{module}.bias"))[wanted])
    assert len(bias) == parts["q"].shape[0] + parts["v"].shape[0]


def test_layers_without_biases_have_none_and_norms_carry_the_offset() -> None:
    plain, offset = tiny_checkpoint("llama"), tiny_checkpoint("gemma2")
    parts = plain.decoder.linears(0)
    assert PartReader(plain).linear([parts["q"], parts["k"]])[1] is None
    module = offset.decoder.names.final_norm
    weight, bias = PartReader(offset).norm("final_norm", module, None)
    assert weight is not None
    np.testing.assert_array_equal(weight, as_float32(offset.tensor(f"{module}.weight")) + 1)
    assert bias is None
