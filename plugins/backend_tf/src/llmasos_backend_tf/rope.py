"""Rotary embeddings: the table of angles (Su et al., 2021; scaling as in the Llama 3.1 reference code)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import DecoderConfig


def rope_table(config: DecoderConfig, length: int) -> npt.NDArray[np.float32]:
    """Cosines and sines float32 [length, 2, head_dim / 2] of every position."""
    frequencies = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling is not None:
        turns = scaling.original_max_position * frequencies / (2 * np.pi)
        blend = np.clip((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0, 1)
        frequencies = (1 - blend) * frequencies / scaling.factor + blend * frequencies
    angles = np.arange(length)[:, None] * frequencies
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
