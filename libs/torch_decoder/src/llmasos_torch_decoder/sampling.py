"""Samples text from a decoder, in batches of sequences of equal length."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from llmasos_torch_decoder.decoder import Attention, Decoder
from llmasos_torch_decoder.rope import rotate, rotations


@torch.no_grad()
def sample(decoder: Decoder, prompts: Tensor, length: int, generator: torch.Generator, *, temperature: float = 1.0) -> Tensor:
    """Continue prompts, int64 [batch, tokens], to ``length`` tokens each; returns int64 [batch, length], prompts included.

    Uses a KV cache, so each new token costs one decode step. End tokens do not end a sequence.
    """
    config = decoder.config
    batch = len(prompts)
    caches = [torch.empty(2, batch, config.num_kv_heads, length, config.head_dim) for _ in decoder.layers]
    tables = rotations(config, length)
    tokens = torch.empty(batch, length, dtype=torch.int64)
    known = min(prompts.shape[1], length)
    tokens[:, :known] = prompts[:, :known]
    start = 0
    while known < length:
        hidden = decoder.embed(tokens[:, start:known])
        for layer, cache in zip(decoder.layers, caches, strict=True):
            hidden = hidden + layer.self_attn.o_proj(_attend(layer.self_attn, layer.input_layernorm(hidden), cache, start, tables))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        probabilities = torch.softmax(decoder.head(hidden[:, -1]) / temperature, dim=-1)
        tokens[:, known] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        start, known = known, known + 1
    return tokens


def _attend(attention: Attention, normed: Tensor, cache: Tensor, start: int, tables: tuple[Tensor, Tensor]) -> Tensor:
    """``Attention.mix`` for tokens from position ``start`` on, which attend to the cache and themselves."""
    batch, count, _ = normed.shape
    end = start + count
    queries, keys, values = attention.project(normed)
    cosines, sines = (table[start:end] for table in tables)
    cache[0, :, :, start:end] = rotate(keys, cosines, sines)
    cache[1, :, :, start:end] = values
    positions = torch.arange(end)
    behind = positions[start:end, None] - positions[None, :]
    seen = behind >= 0
    if attention.config.sliding_window is not None:
        seen &= behind < attention.config.sliding_window
    mixed = functional.scaled_dot_product_attention(
        rotate(queries, cosines, sines), cache[0, :, :, :end], cache[1, :, :, :end], attn_mask=seen, enable_gqa=True
    )
    return mixed.transpose(1, 2).reshape(batch, count, -1)
