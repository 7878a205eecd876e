"""From a checkpoint of any format this loader takes to an engine."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import attrs

from llmasos_backend_tf.framework import import_tensorflow
from llmasos_backend_tf.memory import expected_bytes, token_bytes
from llmasos_backend_tf.options import Options
from llmasos_backend_tf.rounding import chosen_precision, stored_dtype
from llmasos_backend_tf.traits import KNOWN_TRAITS
from llmasos_decoder_kit.kv_cache import KVCache
from llmasos_hookspecs import (
    NEUTRAL_FORMATS,
    DecoderConfig,
    EngineInfo,
    EngineLimits,
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
    if checkpoint.format in NEUTRAL_FORMATS:
        engine = load_over_kernels(checkpoint, options, context)
        if engine is not None:
            return engine
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


def load_over_kernels(checkpoint: Checkpoint, options: Options, context: Context) -> Engine | None:
    """An engine whose layers installed kernels compute, for which TensorFlow is not even imported; None where they do not."""
    from llmasos_backend_tf.installed import installed_kernels, load_installed
    from llmasos_backend_tf.installed_engine import InstalledEngine

    config = _checked_config(checkpoint)
    kernels = installed_kernels(checkpoint, options)
    if kernels is None:
        return None
    limits = context.limits
    context_length = _context_length(checkpoint, options, limits)
    with context.progress("Packing weights", config.num_layers, "layers") as progress:
        decoder = load_installed(
            checkpoint, kernels, threads=compute_threads(options, limits), positions=context_length, advance=progress.advance
        )
    if decoder is None:
        return None
    cache = KVCache(
        layers=config.num_layers,
        rows=limits.max_sequences,
        kv_heads=config.num_kv_heads,
        length=context_length,
        head_dim=config.head_dim,
    )
    info = _info(checkpoint, limits, context_length, decoder.weight_bytes, stored_dtype(checkpoint), [])
    info = attrs.evolve(info, features=info.features | {"drafts"})
    return InstalledEngine(decoder, cache, info, options.prefill_chunk)


def load_decoder(checkpoint: Checkpoint, options: Options, limits: EngineLimits, notes: list[str]) -> Engine:
    """An engine with a KV cache for a checkpoint of named tensors, computed by TensorFlow."""
    from llmasos_backend_tf.decoder import Decoder
    from llmasos_backend_tf.engine import TensorFlowEngine
    from llmasos_backend_tf.installed import installed_kernels
    from llmasos_backend_tf.kv_pool import BLOCK, KVPool
    from llmasos_backend_tf.linear import CodeMatrix, FloatMatrix, KernelMatrices

    config = _checked_config(checkpoint)
    kernels = installed_kernels(checkpoint, options)
    coded = chosen_precision(checkpoint, options) == "int8"
    context_length = _context_length(checkpoint, options, limits)
    pool = KVPool(config, limits.max_sequences * -(-context_length // BLOCK))
    kind = FloatMatrix if not coded else CodeMatrix if kernels is None else KernelMatrices(kernels, compute_threads(options, limits))
    decoder = Decoder(checkpoint, pool, kind, context_length)
    dtype = "float32" if not coded else "int8" if kernels is None else stored_dtype(checkpoint)
    info = _info(checkpoint, limits, context_length, decoder.weight_bytes, dtype, notes)
    return TensorFlowEngine(decoder, pool, info, options.prefill_chunk)


def compute_threads(options: Options, limits: EngineLimits) -> int:
    """Threads of kernels that are called outside of TensorFlow."""
    return options.threads or limits.threads or os.cpu_count() or 1


def _checked_config(checkpoint: Checkpoint) -> DecoderConfig:
    config = require_plain(checkpoint, "The loader tf", KNOWN_TRAITS)
    check_tensors(checkpoint)
    return config


def _info(checkpoint: Checkpoint, limits: EngineLimits, context_length: int, weight_bytes: int, dtype: str, notes: list[str]) -> EngineInfo:
    return EngineInfo(
        vocab_size=checkpoint.decoder.vocab_size,
        context_length=context_length,
        max_sequences=limits.max_sequences,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=token_bytes(checkpoint.decoder),
        dtype=dtype,
        notes=(*notes, *unread_note(checkpoint)),
    )


def _context_length(checkpoint: Checkpoint, options: Options, limits: EngineLimits) -> int:
    config = checkpoint.decoder
    context = min(limits.context_length or config.context_length, config.context_length)
    if limits.memory is None:
        return context
    weight_bytes, a_token = expected_bytes(checkpoint, options), token_bytes(config) * limits.max_sequences
    room = max(0, limits.memory - weight_bytes) // a_token
    if room < (context if limits.context_length else 1):
        raise ResourceError(
            f"The weights take {weight_bytes / 2**20:.0f} MiB and {limits.max_sequences} sequences {a_token} "
            f"bytes a token, which a budget of {limits.memory / 2**20:.0f} MiB cannot hold; allow more memory, or fewer sequences."
        )
    return min(context, room)
