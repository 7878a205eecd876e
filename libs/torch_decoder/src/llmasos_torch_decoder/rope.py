"""Rotary position embeddings (Su et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from llmasos_hookspecs import DecoderConfig


def rotations(config: DecoderConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [length, head_dim], for positions 0 .. length - 1."""
    rope = config.layer(0).rope
    assert rope is not None  # a plain decoder rotates all its layers alike
    cosines, sines = (torch.from_numpy(table).repeat(1, 2) for table in rope.tables(length))
    return cosines, sines


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate queries or keys [..., length, head_dim] by their positions."""
    first, second = states.chunk(2, dim=-1)
    return states * cosines + torch.cat((-second, first), dim=-1) * sines
