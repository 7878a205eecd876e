"""Tables of rotary position embeddings.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv:2104.09864; frequency scaling as the Llama
3.1 model card describes it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import DecoderConfig, RopeScaling

Floats = npt.NDArray[np.float32]


def inverse_frequencies(config: DecoderConfig) -> Floats:
    """Radians a position turns each pair of head dimensions: float32 [head_dim / 2]."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = (1.0 / np.power(config.rope_theta, exponents.astype(np.float64))).astype(np.float32)
    if config.rope_scaling is None:
        return frequencies
    return _scaled(frequencies, config.rope_scaling)


def rotary_tables(config: DecoderConfig, length: int) -> tuple[Floats, Floats]:
    """Cosines and sines of the angles of positions 0 .. length - 1: float32 [length, head_dim / 2] each."""
    # The angle is rounded to float32 before its cosine is taken, as the reference implementations do: at position 8,000 a more
    # exact angle would differ from theirs by up to 5e-4.
    angles = np.arange(length, dtype=np.float32)[:, None] * inverse_frequencies(config)[None, :]
    return np.cos(angles), np.sin(angles)


def _scaled(frequencies: Floats, scaling: RopeScaling) -> Floats:
    if scaling.kind == "linear":
        return (frequencies / np.float32(scaling.factor)).astype(np.float32)
    wavelengths = 2 * math.pi / frequencies.astype(np.float64)
    turns = scaling.original_max_position / wavelengths
    blend = np.clip((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
    return ((1 - blend) * frequencies / scaling.factor + blend * frequencies).astype(np.float32)
