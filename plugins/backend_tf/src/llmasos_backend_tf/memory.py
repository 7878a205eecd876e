"""Predicts the memory of a load from shapes and one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_backend_tf.installed import installed_bytes, installed_kernels
from llmasos_backend_tf.rounding import chosen_precision
from llmasos_hookspecs import NEUTRAL_FORMATS, MemoryEstimate

if TYPE_CHECKING:
    from llmasos_backend_tf.options import Options
    from llmasos_hookspecs import Checkpoint, DecoderConfig


def predict(checkpoint: Checkpoint, options: Options) -> MemoryEstimate | None:
    """Predict the memory of the decoder for a checkpoint of named tensors; None for exports, which are not converted.

    Raises ``ConfigError`` if the options cannot be met.
    """
    if checkpoint.format not in NEUTRAL_FORMATS:
        return None
    return MemoryEstimate(weight_bytes=expected_bytes(checkpoint, options), kv_bytes_per_token=token_bytes(checkpoint.decoder))


def token_bytes(config: DecoderConfig) -> int:
    """Bytes of a token's keys and values."""
    return 2 * 4 * config.num_layers * config.kv_width


def expected_bytes(checkpoint: Checkpoint, options: Options) -> int:
    """Bytes that the weights will take: as kernels pack them; or in float32 with the embedding and the head apart, or in codes with a
    float32 scale for 32."""
    kernels = installed_kernels(checkpoint, options)
    if kernels is not None:
        return installed_bytes(checkpoint, kernels)
    config, precision = checkpoint.decoder, chosen_precision(checkpoint, options)
    size = 0
    for shape in config.tensor_shapes().values():
        elements = shape[0] * (shape[1] if len(shape) == 2 else 1)
        size += elements * 4 if precision != "int8" or len(shape) == 1 else elements + elements // 8
    if config.tie_embeddings and precision != "int8":
        size += config.vocab_size * config.hidden_size * 4
    return size
