"""From a checkpoint to a running engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from llmasos_backend_openvino.attention import insert_attention
from llmasos_backend_openvino.cache_memory import DeviceMemory, HostMemory
from llmasos_backend_openvino.compiling import compile_graph, not_compiled
from llmasos_backend_openvino.decoder import BuiltDecoder, build_decoder, ropes_of
from llmasos_backend_openvino.devices import CPU, chosen_device, memory_of
from llmasos_backend_openvino.engine import OpenVinoEngine
from llmasos_backend_openvino.exported import read_export
from llmasos_backend_openvino.exported_trial import try_out
from llmasos_backend_openvino.kept_weights import KeptWeights, Packing
from llmasos_backend_openvino.kv_cache import BlockPool
from llmasos_backend_openvino.layout import Layout, compiled_layout, layout_on_cpu
from llmasos_backend_openvino.memory import dtype_of
from llmasos_backend_openvino.options import Options
from llmasos_backend_openvino.precision import chosen_precision, rounds_activations
from llmasos_backend_openvino.rotation import RotationTable
from llmasos_backend_openvino.runtime import ov
from llmasos_backend_openvino.session import Session
from llmasos_backend_openvino.traits import EXPORT, KNOWN_TRAITS
from llmasos_backend_openvino.weights import WeightReader, WeightSource
from llmasos_decoder_kit.artifact import cache_key, obtain
from llmasos_hookspecs import (
    NEUTRAL_FORMATS,
    DecoderConfig,
    EngineInfo,
    EngineLimits,
    ResourceError,
    UnsupportedModel,
    check_tensors,
    is_sealed,
    require_plain,
    sealed_builds,
    unread_note,
)

if TYPE_CHECKING:
    from llmasos_hookspecs import Checkpoint, Context, Engine

#: Raised with every change of what is built, so that older folders in the cache are not taken for it.
_GRAPH_VERSION: Final = 2
_MODEL: Final = "decoder.xml"


def load(checkpoint: Checkpoint, options: Options, context: Context) -> Engine:
    """Compile the decoder of a checkpoint of named tensors, find it in the cache, or take the one that was exported; and give it blocks for
    keys and values.

    Raises:
        UnsupportedModel: the format, or the architecture, is not one that this loader takes, or that the device computes.
        CheckpointError: a tensor is missing or has another shape than the config says.
        ConfigError: the device is not there, or does not compute in the precision.
        ResourceError: the memory limit, or the device's memory, is too small.
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
    device, precision = chosen_device(options), chosen_precision(options)
    if device != CPU and config.attention_softcap is not None:
        raise UnsupportedModel(
            f"{checkpoint.path} caps the scores of attention, which the loader openvino computes on CPUs alone; set loader.device to "
            f'"{CPU}".'
        )
    source: Path | BuiltDecoder
    obtain_graph = _in_memory if is_sealed(checkpoint) else _graph
    source, built = obtain_graph(checkpoint, precision, context, whole_zeros=rounds_activations(options))
    weight_bytes: int = built["weight_bytes"]
    limits = _limits(context.limits, device)
    if device == CPU:  # whose layout is known, so that too little memory is said before anything is compiled
        _room(config.context_length, limits, weight_bytes, layout_on_cpu(config, precision))
    compiled = compile_graph(_decoder(source, config, precision), options, limits.threads, source)
    layout = compiled_layout(compiled, device)
    blocks, length = _room(config.context_length, limits, weight_bytes, layout)
    pool = _pool(layout, blocks, device)
    session = Session(compiled, pool, [RotationTable(rope, config.head_dim) for rope in ropes_of(config)], kept=source)
    info = EngineInfo(
        vocab_size=config.vocab_size,
        context_length=length,
        max_sequences=context.limits.max_sequences,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=layout.token_bytes,
        device=device.lower(),
        dtype=built["dtype"],
        notes=unread_note(checkpoint),
    )
    return OpenVinoEngine(info, session, pool, chunk=options.prefill_chunk, switch=switch)


def _load_export(checkpoint: Checkpoint, options: Options, context: Context) -> Engine:
    """An engine of a graph that another tool exported, once it has computed two sequences together as it does alone."""
    export = read_export(checkpoint, context)
    device = chosen_device(options)
    limits = _limits(context.limits, device)
    compiled = compile_graph(export.model, options, limits.threads, checkpoint.path)
    layout = compiled_layout(compiled, device)
    blocks, length = _room(export.context_length, limits, export.weight_bytes, layout)
    pool = _pool(layout, blocks, device)
    info = EngineInfo(
        vocab_size=export.vocab_size,
        context_length=length,
        max_sequences=context.limits.max_sequences,
        weight_bytes=export.weight_bytes,
        kv_bytes_per_token=layout.token_bytes,
        device=device.lower(),
        dtype=export.dtype,
        notes=export.notes,
    )
    engine = OpenVinoEngine(info, Session(compiled, pool, [], kept=export.model), pool, chunk=options.prefill_chunk, switch=None)
    try_out(engine, checkpoint.path)
    for note in export.notes:
        context.note(note)
    return engine


def _in_memory(checkpoint: Checkpoint, precision: str, context: Context, *, whole_zeros: bool) -> tuple[BuiltDecoder, dict[str, Any]]:
    """The graph of a sealed checkpoint without a file, and facts about it; its weights are kept encrypted, or were kept before."""
    config, kept = checkpoint.decoder, sealed_builds(checkpoint)
    key = _key(checkpoint, precision, whole_zeros=whole_zeros)
    if kept is not None and (parts := kept.get(key)) is not None:
        known = KeptWeights(config, parts)
        return _built(config, known, context), known.built
    weights = Packing(WeightReader(checkpoint, precision, whole_zeros=whole_zeros), config.num_layers)
    built = _built(config, weights, context)
    facts = _facts(built, checkpoint, precision, whole_zeros=whole_zeros)
    if kept is not None:
        kept.put(key, weights.packed(facts))
    return built, facts


def _graph(checkpoint: Checkpoint, precision: str, context: Context, *, whole_zeros: bool) -> tuple[Path, dict[str, Any]]:
    """The file of the checkpoint's graph, and what was said of it when it was built."""

    def write(folder: Path) -> dict[str, Any]:
        built = _built(checkpoint.decoder, WeightReader(checkpoint, precision, whole_zeros=whole_zeros), context)
        ov.serialize(built.model, folder / _MODEL)
        return _facts(built, checkpoint, precision, whole_zeros=whole_zeros)

    folder, facts = obtain(context.cache, _key(checkpoint, precision, whole_zeros=whole_zeros), write, of=checkpoint.path)
    return folder / _MODEL, facts


def _built(config: DecoderConfig, weights: WeightSource, context: Context) -> BuiltDecoder:
    with context.progress("Building the OpenVINO decoder", total=config.num_layers + 1, unit="layers") as progress:
        return build_decoder(config, weights, progress)


def _facts(built: BuiltDecoder, checkpoint: Checkpoint, precision: str, *, whole_zeros: bool) -> dict[str, Any]:
    return {"weight_bytes": built.constants.nbytes, "dtype": dtype_of(checkpoint, precision, whole_zeros=whole_zeros)}


def _key(checkpoint: Checkpoint, precision: str, *, whole_zeros: bool) -> str:
    """Under which what is built is kept."""
    form = {"precision": precision, "whole_zeros": whole_zeros}
    return cache_key(digest=checkpoint.digest, decoder=attrs.asdict(checkpoint.decoder), version=_GRAPH_VERSION, **form)


def _decoder(source: Path | BuiltDecoder, config: DecoderConfig, precision: str) -> Any:
    """The graph, or the one in a file, with its attention; it reads its weights where the file is mapped."""
    try:
        model = ov.Core().read_model(source) if isinstance(source, Path) else source.model
    except RuntimeError as error:
        raise not_compiled(source, error) from error
    insert_attention(model, config, precision)
    return model


def _switch(checkpoint: Checkpoint) -> int | None:
    """Tokens up to which a sequence is rotated otherwise than a longer one; None where its length does not matter."""
    switches = {rope.switch for rope in ropes_of(checkpoint.decoder)} - {None}
    if len(switches) > 1:
        raise UnsupportedModel(f"{checkpoint.path} rotates its layers otherwise from {switches} tokens on, and one length is taken.")
    return next(iter(switches), None)


def _limits(limits: EngineLimits, device: str) -> EngineLimits:
    """The limits, of memory no more than the device has."""
    bounds = [bound for bound in (limits.memory, memory_of(device)) if bound is not None]
    return attrs.evolve(limits, memory=min(bounds, default=None))


def _room(context_length: int, limits: EngineLimits, weight_bytes: int, layout: Layout) -> tuple[int, int]:
    """Blocks of the pool, and tokens that one slot may hold."""
    length = min(limits.context_length or context_length, context_length)
    blocks = limits.max_sequences * layout.blocks_for(length)
    if limits.memory is None:
        return blocks, length
    blocks = min(blocks, max(0, limits.memory - weight_bytes) // layout.block_bytes)
    least = max(limits.max_sequences, layout.blocks_for(length) if limits.context_length else 1)
    if blocks < least:
        raise ResourceError(
            f"The memory limit of {limits.memory:,} bytes is too small for {weight_bytes:,} bytes of weights and {least} blocks of "
            f"{layout.block} tokens ({layout.block_bytes:,} bytes each), the least for {limits.max_sequences} sequences; raise it, or "
            "lower max_sequences or context_length."
        )
    return blocks, min(length, blocks * layout.block)


def _pool(layout: Layout, blocks: int, device: str) -> BlockPool:
    try:
        return BlockPool(layout, blocks, HostMemory(layout, blocks) if device == CPU else DeviceMemory(layout, blocks, device))
    except (OSError, MemoryError, RuntimeError) as error:
        giver = "The system gives no address space" if device == CPU else f"{device} gives no memory"
        raise ResourceError(f"{giver} for {blocks} blocks of {layout.block} tokens; lower max_sequences or context_length.") from error
