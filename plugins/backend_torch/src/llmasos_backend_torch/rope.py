"""Rotary position embeddings as one complex product."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmasos_hookspecs import DecoderConfig, RopeScaling


def rotation_table(decoder: DecoderConfig, positions: int, device: torch.device) -> Tensor:
    """Cosines and sines of ``position * frequency``, float32 [positions, 1, head_dim / 2, 2] (RoFormer, arXiv:2104.09864)."""
    exponents = torch.arange(0, decoder.head_dim, 2, dtype=torch.float32) / decoder.head_dim
    frequencies = 1.0 / decoder.rope_theta**exponents
    if decoder.rope_scaling is not None:
        frequencies = _scaled(frequencies, decoder.rope_scaling)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    return torch.stack((angles.cos(), angles.sin()), -1)[:, None].to(device)


def _scaled(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    # llama3: wavelengths up to the original context over high_freq_factor stay, those past it over low_freq_factor are
    # stretched by the factor, and those between are blended.
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    kept = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


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
