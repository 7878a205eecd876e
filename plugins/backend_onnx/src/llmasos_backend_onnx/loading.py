"""From a checkpoint to a running engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_backend_onnx.artifact import cache_key, obtain
from llmasos_backend_onnx.cpu import float_prefill_is_faster
from llmasos_backend_onnx.decoder import FLOAT_MODEL, MODEL, build_decoder
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_backend_onnx.kv_cache import KVCache
from llmasos_backend_onnx.options import Options
from llmasos_backend_onnx.rope import rotary_tables
from llmasos_backend_onnx.session import DecoderSession, open_session
from llmasos_hookspecs import Checkpoint, Context, EngineInfo, EngineLimits, ResourceError, check_tensors

#: Raised with every change of what is built, so that older folders in the cache are not taken for it.
_GRAPH_VERSION: Final = 3


def load(checkpoint: Checkpoint, options: Options, context: Context) -> OnnxEngine:
    """Build the decoder's graph, or find it in the cache, and start ONNX Runtime on it.

    Raises:
        UnsupportedModel: the checkpoint is no Llama-family decoder.
        CheckpointError: a tensor is missing or damaged.
        ResourceError: the memory limit is too small for the weights and one token a slot.
    """
    check_tensors(checkpoint)
    config = checkpoint.decoder
    key = cache_key(digest=checkpoint.digest, decoder=attrs.asdict(config), precision=options.precision, version=_GRAPH_VERSION)

    def build(folder: Path) -> dict[str, Any]:
        with context.progress("Building the ONNX decoder", total=config.num_layers + 1, unit="layers") as progress:
            return attrs.asdict(build_decoder(checkpoint, folder, options.precision, progress))

    folder, built = obtain(context.cache, key, build)
    for note in built["notes"]:
        context.note(note)
    limits = context.limits
    kv_bytes = 2 * config.num_layers * config.kv_width * 4
    twice = built["four_bit"] and (
        float_prefill_is_faster() if options.prefill_activations == "auto" else options.prefill_activations == "fp32"
    )
    weight_bytes = built["weight_bytes"] * (2 if twice else 1)
    kv_tokens = _kv_tokens(limits, weight_bytes, kv_bytes)
    length = min(config.context_length, limits.context_length or config.context_length, kv_tokens or config.context_length)
    threads = options.threads or limits.threads
    decode = open_session(folder / MODEL, threads=threads, spin=options.spin, provider=options.provider)
    prefill = open_session(folder / FLOAT_MODEL, threads=threads, spin=options.spin, provider=options.provider) if twice else decode
    cache = KVCache(
        layers=config.num_layers, rows=limits.max_sequences, kv_heads=config.num_kv_heads, length=length, head_dim=config.head_dim
    )
    info = EngineInfo(
        vocab_size=config.vocab_size,
        context_length=length,
        max_sequences=limits.max_sequences,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=kv_bytes,
        dtype=built["dtype"],
        notes=tuple(built["notes"]),
    )
    decoder = DecoderSession(decode, prefill, cache, *rotary_tables(config, length), config.vocab_size)
    return OnnxEngine(info, decoder, cache, prefill_chunk=options.prefill_chunk, kv_tokens=kv_tokens)


def _kv_tokens(limits: EngineLimits, weight_bytes: int, kv_bytes: int) -> int | None:
    """Tokens of all slots together that the memory limit holds beside the weights."""
    if limits.memory is None:
        return None
    tokens = (limits.memory - weight_bytes) // kv_bytes
    if tokens < limits.max_sequences:
        raise ResourceError(
            f"The memory limit of {limits.memory:,} bytes is too small for {weight_bytes:,} bytes of weights and one token "
            f"({kv_bytes:,} bytes) for each of {limits.max_sequences} sequences; raise it or lower max_sequences."
        )
    return int(tokens)
