"""Predicts the memory of a load from shapes and one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_backend_tf.loading import chosen_precision, expected_bytes
from llmasos_hookspecs import NEUTRAL_FORMATS, MemoryEstimate

if TYPE_CHECKING:
    from llmasos_backend_tf.options import Options
    from llmasos_hookspecs import Checkpoint


def predict(checkpoint: Checkpoint, options: Options) -> MemoryEstimate | None:
    """Predict the memory of the decoder for a checkpoint of named tensors; None for exports, which are not converted."""
    if checkpoint.format not in NEUTRAL_FORMATS:
        return None
    config = checkpoint.decoder
    return MemoryEstimate(
        weight_bytes=expected_bytes(config, chosen_precision(checkpoint, options)),
        kv_bytes_per_token=2 * 4 * config.num_layers * config.kv_width,
    )
