"""From a checkpoint of any format this loader takes to an engine."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from llmasos_backend_tf.framework import import_tensorflow
from llmasos_backend_tf.options import Options
from llmasos_backend_tf.traits import KNOWN_TRAITS
from llmasos_hookspecs import (
    NEUTRAL_FORMATS,
    DecoderConfig,
    EngineInfo,
    EngineLimits,
    QuantizedTensor,
    ResourceError,
    UnsupportedModel,
    check_tensors,
    require_plain,
    unread_note,
)

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint, Context, Engine


def load(checkpoint: Checkpoint, options: Options, context: Context) -> Engine:
    """The engine for a checkpoint.

    Raises:
        UnsupportedModel: the format or architecture is not one that this loader takes.
        CheckpointError: a tensor is missing or has another shape than the config says.
        ResourceError: the memory budget is too small.
    """
    threads = options.threads or context.limits.threads
    _, note = import_tensorflow(threads, side_by_side=checkpoint.format not in ("keras", "saved_model"))
    notes = [] if note is None else [note]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if checkpoint.format == "saved_model":
            from llmasos_backend_tf.saved_model import load_saved_model

            return load_saved_model(checkpoint, context, notes)
        if checkpoint.format == "keras":
            from llmasos_backend_tf.keras_preset import load_keras

            return load_keras(checkpoint, options, context, notes)
        if checkpoint.format not in NEUTRAL_FORMATS:
            raise UnsupportedModel(
                f"{checkpoint.path} is in the format {checkpoint.format!r}, and the loader tf takes huggingface, gguf, keras and "
                "saved_model; choose a loader that takes it."
            )
        return load_decoder(checkpoint, options, context.limits, notes)


def load_decoder(checkpoint: Checkpoint, options: Options, limits: EngineLimits, notes: list[str]) -> Engine:
    """An engine with a KV cache for a checkpoint of named tensors."""
    from llmasos_backend_tf.decoder import Decoder
    from llmasos_backend_tf.engine import TensorFlowEngine
    from llmasos_backend_tf.kv_pool import BLOCK, KVPool

    config = require_plain(checkpoint, "The loader tf", KNOWN_TRAITS)
    check_tensors(checkpoint)
    precision = chosen_precision(checkpoint, options)
    token_bytes = 2 * 4 * config.num_layers * config.kv_width
    context_length = _context_length(config, limits, expected_bytes(config, precision), token_bytes)
    pool = KVPool(config, limits.max_sequences * -(-context_length // BLOCK))
    decoder = Decoder(checkpoint, pool, precision, context_length)
    info = EngineInfo(
        vocab_size=config.vocab_size,
        context_length=context_length,
        max_sequences=limits.max_sequences,
        weight_bytes=decoder.weight_bytes,
        kv_bytes_per_token=token_bytes,
        dtype="int8" if precision == "int8" else "float32",
        notes=(*notes, *unread_note(checkpoint)),
    )
    return TensorFlowEngine(decoder, pool, info, options.prefill_chunk)


def chosen_precision(checkpoint: Checkpoint, options: Options) -> str:
    """``fp32`` or ``int8``: what the options say, or for ``auto`` the checkpoint."""
    if options.precision != "auto":
        return options.precision
    return "int8" if isinstance(checkpoint.tensor(f"{checkpoint.decoder.linears(0)['up'].module}.weight"), QuantizedTensor) else "fp32"


def expected_bytes(config: DecoderConfig, precision: str) -> int:
    """Bytes that the weights will take: float32 with the embedding and the head apart, or codes with a float32 scale for 32."""
    size = 0
    for shape in config.tensor_shapes().values():
        elements = shape[0] * (shape[1] if len(shape) == 2 else 1)
        size += elements * 4 if precision != "int8" or len(shape) == 1 else elements + elements // 8
    if config.tie_embeddings and precision != "int8":
        size += config.vocab_size * config.hidden_size * 4
    return size


def _context_length(config: DecoderConfig, limits: EngineLimits, weight_bytes: int, token_bytes: int) -> int:
    context = min(limits.context_length or config.context_length, config.context_length)
    if limits.memory is None:
        return context
    room = max(0, limits.memory - weight_bytes) // (token_bytes * limits.max_sequences)
    if room < (context if limits.context_length else 1):
        raise ResourceError(
            f"The weights take {weight_bytes / 2**20:.0f} MiB and {limits.max_sequences} sequences {token_bytes * limits.max_sequences} "
            f"bytes a token, which a budget of {limits.memory / 2**20:.0f} MiB cannot hold; allow more memory, or fewer sequences."
        )
    return min(context, room)
