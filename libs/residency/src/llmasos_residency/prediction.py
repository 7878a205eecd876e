"""Predicts the memory that a model will need, from its headers, before a weight is read."""

from __future__ import annotations

import math
from typing import Final

import attrs

from llmasos_hookspecs import Checkpoint, DecoderConfig, LLMasOSError, MemoryEstimate

#: Assumed load rate in bytes a second where no load was measured: that of a slow disk.
_LOAD_RATE: Final = 200e6


@attrs.frozen(kw_only=True)
class Need:
    """The memory that a model needs. Sizes in bytes, lengths in tokens.

    Attributes:
        weights: held while it is loaded.
        peak: most that is held while it loads, weights included.
        kv_bytes_per_token: keys and values of one token.
        context_length: tokens of one sequence at most; 0 where it is not known yet.
        load_seconds: from the checkpoint to a running engine.
        copies: engines that are loaded, each with weights of its own (replicas). The sizes are for all of them together, except
            ``kv_bytes_per_token``, which is for one.
        measured: whether a load on this machine gave the figures; else they are estimates from the headers.
    """

    weights: int
    peak: int
    kv_bytes_per_token: int
    context_length: int
    load_seconds: float
    copies: int = 1
    measured: bool = False


def predict(
    checkpoint: Checkpoint, estimate: MemoryEstimate | None, *, context_length: int | None = None, measured: Need | None = None
) -> Need:
    """The memory that loading the checkpoint takes.

    Args:
        checkpoint: only its headers are read.
        estimate: the loader's own; None where it makes none.
        context_length: the limit in config, if any.
        measured: figures of an earlier load of the same weights by the same loader, which are used instead of any estimate.
    """
    need = measured or _need(checkpoint, estimate or _guess(checkpoint))
    if context_length is not None:
        need = attrs.evolve(need, context_length=min(context_length, need.context_length or context_length))
    return need


def _need(checkpoint: Checkpoint, estimate: MemoryEstimate) -> Need:
    decoder, weights = _decoder(checkpoint), estimate.weight_bytes
    largest = max((math.prod(checkpoint.shape(name)) for name in checkpoint.names()), default=0)
    return Need(
        weights=weights,
        # One tensor at a time is dequantised to float32, and packed in the layout of the kernels.
        peak=weights + 2 * 4 * largest,
        kv_bytes_per_token=estimate.kv_bytes_per_token,
        context_length=0 if decoder is None else decoder.context_length,
        load_seconds=weights / _LOAD_RATE,
    )


def _guess(checkpoint: Checkpoint) -> MemoryEstimate:
    """Weights as they are stored; keys and values of a Llama-family decoder in float32."""
    decoder = _decoder(checkpoint)
    weights = _stored_bytes(checkpoint) or 2 * sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    if decoder is None:
        return MemoryEstimate(weight_bytes=weights, kv_bytes_per_token=0)
    if decoder.tie_embeddings:  # engines hold a tied embedding as a look-up table and as a matrix for the output head
        weights += 2 * decoder.vocab_size * decoder.hidden_size
    return MemoryEstimate(weight_bytes=weights, kv_bytes_per_token=2 * 4 * decoder.num_layers * decoder.kv_width)


def _decoder(checkpoint: Checkpoint) -> DecoderConfig | None:
    try:
        return checkpoint.decoder
    except LLMasOSError:
        return None  # not of the Llama family: the engine will say


def _stored_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the files that hold the weights; 0 where there are none."""
    path = checkpoint.path
    if path.is_file():
        data = [path.with_name(path.name + suffix) for suffix in (".data", "_data")]
        return sum(file.stat().st_size for file in (path, *data) if file.is_file())
    found = [path.rglob(f"*{suffix}") for suffix in (".safetensors", ".gguf", ".onnx", ".onnx.data", ".onnx_data", ".bin", ".h5")]
    return sum(file.stat().st_size for files in found for file in files)
