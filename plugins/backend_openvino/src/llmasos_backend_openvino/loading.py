"""From a checkpoint to a running engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from llmasos_backend_openvino.attention import BLOCK, insert_attention
from llmasos_backend_openvino.cpu import chosen_precision, rounds_activations
from llmasos_backend_openvino.decoder import BuiltDecoder, build_decoder, ropes_of
from llmasos_backend_openvino.engine import OpenVinoEngine
from llmasos_backend_openvino.exported import read_export
from llmasos_backend_openvino.exported_trial import try_out
from llmasos_backend_openvino.kv_cache import BlockPool, Caches, blocks_for, caches_of, token_bytes
from llmasos_backend_openvino.memory import dtype_of
from llmasos_backend_openvino.options import Options
from llmasos_backend_openvino.rotation import RotationTable
from llmasos_backend_openvino.runtime import ov
from llmasos_backend_openvino.session import Session, compiled_caches
from llmasos_backend_openvino.traits import EXPORT, KNOWN_TRAITS
from llmasos_decoder_kit.artifact import cache_key, obtain
from llmasos_hookspecs import (
    NEUTRAL_FORMATS,
    CheckpointError,
    DecoderConfig,
    EngineInfo,
    EngineLimits,
    ResourceError,
    UnsupportedModel,
    check_tensors,
    is_sealed,
    require_plain,
    unread_note,
)

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint, Context, Engine

#: Raised with every change of what is built, so that older folders in the cache are not taken for it.
_GRAPH_VERSION: Final = 2
_MODEL: Final = "decoder.xml"

#: Activations that share a scale: with more, SmolLM2 loses what makes it exact, and OpenVINO takes no more than the weights' groups.
_ACTIVATION_GROUP: Final = 32


def load(checkpoint: Checkpoint, options: Options, context: Context) -> Engine:
    """Compile the decoder of a checkpoint of named tensors, find it in the cache, or take the one that was exported; and give it blocks for
    keys and values.

    Raises:
        UnsupportedModel: the format, or the architecture, is not one that this loader takes.
        CheckpointError: a tensor is missing or has another shape than the config says.
        ResourceError: the memory limit is too small.
    """
    if checkpoint.format == EXPORT:
        return _load_export(checkpoint, options, context)
    if checkpoint.format not in NEUTRAL_FORMATS:
        raise UnsupportedModel(
            f"{checkpoint.path} is in the format {checkpoint.format!r}, and the loader openvino takes huggingface, gguf and openvino; "
            "choose a loader that takes it."
        )
    config = require_plain(checkpoint, "The loader openvino", KNOWN_TRAITS)
    check_tensors(checkpoint)
    switch = _switch(checkpoint)
    precision = chosen_precision(options)
    source: Path | BuiltDecoder
    obtain_graph = _in_memory if is_sealed(checkpoint) else _graph
    source, built = obtain_graph(checkpoint, precision, context, whole_zeros=rounds_activations(options))
    weight_bytes: int = built["weight_bytes"]
    caches = caches_of(config)
    blocks, length = _room(config.context_length, context.limits, weight_bytes, BLOCK * token_bytes(caches, precision))
    pool = _pool(caches, blocks, precision)
    compiled = _compiled(_decoder(source, config, precision), options, context, source)
    session = Session(compiled, pool, [RotationTable(rope, config.head_dim) for rope in ropes_of(config)], kept=source)
    info = EngineInfo(
        vocab_size=config.vocab_size,
        context_length=length,
        max_sequences=context.limits.max_sequences,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=token_bytes(caches, precision),
        dtype=built["dtype"],
        notes=unread_note(checkpoint),
    )
    return OpenVinoEngine(info, session, pool, chunk=options.prefill_chunk, switch=switch)


def _load_export(checkpoint: Checkpoint, options: Options, context: Context) -> Engine:
    """An engine of a graph that another tool exported, once it has computed two sequences together as it does alone."""
    export = read_export(checkpoint, context)
    precision = chosen_precision(options)
    compiled = _compiled(export.model, options, context, checkpoint.path)
    caches = compiled_caches(compiled)
    blocks, length = _room(export.context_length, context.limits, export.weight_bytes, BLOCK * token_bytes(caches, precision))
    pool = _pool(caches, blocks, precision)
    info = EngineInfo(
        vocab_size=export.vocab_size,
        context_length=length,
        max_sequences=context.limits.max_sequences,
        weight_bytes=export.weight_bytes,
        kv_bytes_per_token=token_bytes(caches, precision),
        dtype=export.dtype,
        notes=export.notes,
    )
    engine = OpenVinoEngine(info, Session(compiled, pool, [], kept=export.model), pool, chunk=options.prefill_chunk, switch=None)
    try_out(engine, checkpoint.path)
    for note in export.notes:
        context.note(note)
    return engine


def _in_memory(checkpoint: Checkpoint, precision: str, context: Context, *, whole_zeros: bool) -> tuple[BuiltDecoder, dict[str, Any]]:
    """The checkpoint's graph without a file, and facts about it."""
    with context.progress("Building the OpenVINO decoder", total=checkpoint.decoder.num_layers + 1, unit="layers") as progress:
        built = build_decoder(checkpoint, precision, progress, whole_zeros=whole_zeros)
    return built, {"weight_bytes": built.constants.nbytes, "dtype": dtype_of(checkpoint, precision, whole_zeros=whole_zeros)}


def _graph(checkpoint: Checkpoint, precision: str, context: Context, *, whole_zeros: bool) -> tuple[Path, dict[str, Any]]:
    """The file of the checkpoint's graph, and what was said of it when it was built."""
    config = checkpoint.decoder
    form = {"precision": precision, "whole_zeros": whole_zeros}
    key = cache_key(digest=checkpoint.digest, decoder=attrs.asdict(config), version=_GRAPH_VERSION, **form)

    def write(folder: Path) -> dict[str, Any]:
        built, facts = _in_memory(checkpoint, precision, context, whole_zeros=whole_zeros)
        ov.serialize(built.model, folder / _MODEL)
        return facts

    folder, facts = obtain(context.cache, key, write, of=checkpoint.path)
    return folder / _MODEL, facts


def _decoder(source: Path | BuiltDecoder, config: DecoderConfig, precision: str) -> Any:
    """The graph, or the one in a file, with its attention; it reads its weights where the file is mapped."""
    try:
        model = ov.Core().read_model(source) if isinstance(source, Path) else source.model
    except RuntimeError as error:
        raise _not_compiled(source, error) from error
    insert_attention(model, config, precision)
    return model


def _compiled(model: Any, options: Options, context: Context, source: Path | BuiltDecoder) -> Any:
    precision, threads = chosen_precision(options), options.threads or context.limits.threads
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        # Activations in 8 bits; OpenVINO rounds them where the weights' zeros are whole.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(_ACTIVATION_GROUP) if rounds_activations(options) else "0",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": False,  # two engines would be pinned to the same cores
        **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
    }
    try:
        return ov.Core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise _not_compiled(source, error) from error


def _not_compiled(source: Path | BuiltDecoder, error: RuntimeError) -> CheckpointError:
    reason = str(error).strip().splitlines()[-1].rstrip(".")
    where = source if isinstance(source, Path) else "a sealed model"
    return CheckpointError(f"OpenVINO {ov.get_version()} cannot compile {where}: {reason}.")


def _switch(checkpoint: Checkpoint) -> int | None:
    """Tokens up to which a sequence is rotated otherwise than a longer one; None where its length does not matter."""
    switches = {rope.switch for rope in ropes_of(checkpoint.decoder)} - {None}
    if len(switches) > 1:
        raise UnsupportedModel(f"{checkpoint.path} rotates its layers otherwise from {switches} tokens on, and one length is taken.")
    return next(iter(switches), None)


def _room(context_length: int, limits: EngineLimits, weight_bytes: int, block_bytes: int) -> tuple[int, int]:
    """Blocks of the pool, and tokens that one slot may hold."""
    length = min(limits.context_length or context_length, context_length)
    blocks = limits.max_sequences * blocks_for(length)
    if limits.memory is None:
        return blocks, length
    blocks = min(blocks, max(0, limits.memory - weight_bytes) // block_bytes)
    least = max(limits.max_sequences, blocks_for(length) if limits.context_length else 1)
    if blocks < least:
        raise ResourceError(
            f"The memory limit of {limits.memory:,} bytes is too small for {weight_bytes:,} bytes of weights and {least} blocks of {BLOCK} "
            f"tokens ({block_bytes:,} bytes each), the least for {limits.max_sequences} sequences; raise it, or lower max_sequences or "
            "context_length."
        )
    return blocks, min(length, blocks * BLOCK)


def _pool(caches: Caches, blocks: int, precision: str) -> BlockPool:
    try:
        return BlockPool(caches, blocks, precision)
    except (OSError, MemoryError) as error:
        raise ResourceError(
            f"The system gives no address space for {blocks} blocks of {BLOCK} tokens; lower max_sequences or context_length."
        ) from error
