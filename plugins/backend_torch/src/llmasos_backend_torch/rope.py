"""Rotary position embeddings as one complex product."""

from __future__ import annotations

import torch
from torch import Tensor

from llmasos_hookspecs import DecoderConfig


def rotation_table(decoder: DecoderConfig, positions: int, device: torch.device) -> Tensor:
    """Cosines and sines of ``position * frequency``, float32 [positions, 1, head_dim / 2, 2] (RoFormer, arXiv:2104.09864)."""
    rope = decoder.layer(0).rope
    assert rope is not None  # a plain decoder rotates all its layers alike
    cosines, sines = (torch.from_numpy(table) for table in rope.tables(positions))
    return torch.stack((cosines, sines), -1)[:, None].to(device)


def interleaved(heads: int, head_dim: int) -> Tensor:
    """Order of a projection's rows that puts the two elements of each rotated pair side by side.

    Checkpoints pair element ``i`` of a head with ``i + head_dim / 2``. Attention scores do not change if queries and keys are permuted
    alike, and two adjacent elements can be read as one complex number.
    """
    within = torch.arange(head_dim).view(2, -1).t().reshape(-1)
    return (torch.arange(heads)[:, None] * head_dim + within).reshape(-1)


def rotations_at(table: Tensor, positions: Tensor) -> Tensor:
    """The rotations for ``rotate_`` at ``positions`` [total]: complex64 [total, 1, head_dim / 2], or real pairs under torch.compile, which
    does not support complex numbers but fuses real arithmetic."""
    pairs = table[positions]
    return pairs if torch.compiler.is_compiling() else torch.view_as_complex(pairs)


def rotate_(x: Tensor, rotations: Tensor) -> None:
    """Rotate x [total, heads, head_dim], pairs interleaved, in place; ``rotations`` as ``rotations_at`` gives them."""
    pairs = x.view(*x.shape[:-1], -1, 2)
    if not rotations.is_complex():
        (a, b), (cos, sin) = pairs.float().unbind(-1), rotations.unbind(-1)
        pairs.copy_(torch.stack((a * cos - b * sin, a * sin + b * cos), -1))
    elif x.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(rotations)
    else:
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()).mul_(rotations)))
