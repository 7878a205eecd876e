"""Rotary position embeddings (Su et al., 2021) with the scalings that ``RopeScaling`` names."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmasos_hookspecs import DecoderConfig


def inverse_frequencies(config: DecoderConfig) -> Tensor:
    """float32 [head_dim / 2]: the rotation of each pair of elements, in radians a position."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    # llama3: wavelengths above `longest` are stretched, below `shortest` kept, and blended between the two.
    wavelengths = 2 * math.pi / frequencies
    longest = scaling.original_max_position / scaling.low_freq_factor
    shortest = scaling.original_max_position / scaling.high_freq_factor
    keep = (scaling.original_max_position / wavelengths - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blended = (1 - keep) * frequencies / scaling.factor + keep * frequencies
    return torch.where(wavelengths > longest, frequencies / scaling.factor, torch.where(wavelengths < shortest, frequencies, blended))


def rotations(config: DecoderConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [length, head_dim], for positions 0 .. length - 1."""
    angles = torch.outer(torch.arange(length, dtype=torch.float32), inverse_frequencies(config)).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate queries or keys [..., length, head_dim] by their positions."""
    first, second = states.chunk(2, dim=-1)
    return states * cosines + torch.cat((-second, first), dim=-1) * sines
