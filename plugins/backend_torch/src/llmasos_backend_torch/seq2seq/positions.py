"""How an encoder-decoder tells where a token stands: tables of embeddings, and biases on attention scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmasos_backend_torch.seq2seq.config import Seq2SeqConfig


class RelativeBias:
    """T5's bias by distance: nearby distances have a bucket each, farther ones share buckets of logarithmic width (Raffel et al., 2020).

    ``table`` is [buckets, heads]; ``both_ways``: keys may stand after queries, as in an encoder.
    """

    def __init__(self, table: Tensor, config: Seq2SeqConfig, *, both_ways: bool) -> None:
        self.table = table
        self._both_ways = both_ways
        self._max_distance = config.max_distance

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions of queries [..., q] and of keys [k] -> [..., heads, q, k]."""
        return self.table[self._buckets(keys - queries[..., None])].movedim(-1, -3)

    def _buckets(self, distance: Tensor) -> Tensor:
        count = self.table.shape[0]
        found = torch.zeros_like(distance)
        if self._both_ways:
            count //= 2
            found = (distance > 0).to(torch.int64) * count
            distance = distance.abs()
        else:
            distance = -distance.clamp(max=0)
        exact = count // 2
        far = torch.log(distance.clamp(min=1).float() / exact) / math.log(self._max_distance / exact) * (count - exact)
        return found + torch.where(distance < exact, distance, (exact + far.to(torch.int64)).clamp(max=count - 1))


def sinusoids(config: Seq2SeqConfig, rows: int) -> Tensor:
    """Position embeddings float32 [rows, width]: sines, then cosines (Vaswani et al., 2017), in the variant of the model's family."""
    half = config.width // 2
    at = torch.arange(rows, dtype=torch.float64)[:, None]
    if config.positions == "sinusoidal_padded":  # M2M-100: the last frequency is exactly 1 / 10000
        # In float32, as transformers computes it: an angle of 1,000 radians keeps its difference to float64 in the result.
        steps = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
        angles = at.float() * steps
        table = torch.cat((torch.sin(angles), torch.cos(angles)), 1)
        table = torch.nn.functional.pad(table, (0, config.width - 2 * half))
        table[config.first_row - 1] = 0  # of the padding token
        return table
    frequencies = 10000.0 ** (-torch.arange(0, config.width, 2, dtype=torch.float64) / config.width)
    angles = at * frequencies
    return torch.cat((torch.sin(angles), torch.cos(angles[:, : config.width - angles.shape[1]])), 1).float()
