"""Makes a running engine from a checkpoint."""

from __future__ import annotations

import os
from typing import Any, Final

import attrs

from llmasos_backend_onnx.cpu import check_int8_gemm, prefill_activations, rows_round_alike
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_backend_onnx.graph_files import FLOAT_MODEL, INTEGER_MODEL, MODEL
from llmasos_backend_onnx.graphs import Place, graph_at, obtain_graphs
from llmasos_backend_onnx.heads import head_width, kv_bytes_per_token
from llmasos_backend_onnx.histories import Histories
from llmasos_backend_onnx.installed import installed_operators
from llmasos_backend_onnx.limits import kv_tokens
from llmasos_backend_onnx.options import Options
from llmasos_backend_onnx.rope import Ropes
from llmasos_backend_onnx.session import DecoderSession, open_session
from llmasos_backend_onnx.traits import refusal
from llmasos_decoder_kit.artifact import cache_key
from llmasos_decoder_kit.kv_cache import KVCache
from llmasos_encoder_kit.choice import is_encoder
from llmasos_hookspecs import (
    Checkpoint,
    ConfigError,
    Context,
    Encoder,
    Engine,
    EngineInfo,
    UnsupportedModel,
    check_tensors,
    unread_note,
)

#: Version of the built graph, part of the cache key; increase it with every change of the graph.
_GRAPH_VERSION: Final = 9


#: Formats of checkpoints that contain a graph.
EXPORTS: Final = ("onnx", "onnx_genai")


def load(checkpoint: Checkpoint, options: Options, context: Context) -> Engine | Encoder:
    """The engine for a checkpoint of named tensors, or for a decoder that another tool exported to ONNX; an encoder where that is
    what it is of.

    Raises:
        UnsupportedModel: this loader does not support the decoder.
        CheckpointError: a tensor or file is missing or damaged, or a file leads outside its folder.
        ConfigError: the options set what an export cannot change, or a pooling for a model that generates.
        ResourceError: the memory limit is too small for the weights and one token a slot.
    """
    # Each form of model is imported by its users only.
    if is_encoder(checkpoint):
        if checkpoint.format in EXPORTS:
            from llmasos_backend_onnx.encoder.exported import load_exported_encoder

            return load_exported_encoder(checkpoint, options, context)
        from llmasos_backend_onnx.encoder.loading import load_encoder

        return load_encoder(checkpoint, options, context)
    if options.pooling != "auto":
        raise ConfigError(
            f'pooling is "{options.pooling}", and {checkpoint.path} generates text: the loader onnx makes vectors with encoders only; '
            'use the loader torch, or leave it "auto".',
            "loader.pooling",
        )
    if checkpoint.format in EXPORTS:
        from llmasos_backend_onnx.seq2seq.graphs import holds_encoder

        if holds_encoder(checkpoint.path):
            from llmasos_backend_onnx.seq2seq.loading import load_seq2seq

            return load_seq2seq(checkpoint, options, context)
        from llmasos_backend_onnx.foreign.loading import load_export

        return load_export(checkpoint, options, context)
    return build(checkpoint, options, context)


def build(checkpoint: Checkpoint, options: Options, context: Context) -> OnnxEngine:
    """Build the decoder's graph, or find it in the cache, and open ONNX Runtime sessions on it. That of a sealed checkpoint is built in
    memory each time.

    Raises:
        UnsupportedModel: ``DecoderConfig`` does not describe the decoder, or ``traits`` refuses it.
        CheckpointError: a tensor is missing or damaged.
        ConfigError: the options ask for a format that this CPU does not compute exactly.
        ResourceError: the memory limit is too small for the weights and one token a slot.
    """
    config, limits = checkpoint.decoder, context.limits
    if reason := refusal(config):
        raise UnsupportedModel(
            f"The loader onnx does not compute {checkpoint.path} ({config.model_type}): {reason}; use llmasos-backend-torch."
        )
    check_tensors(checkpoint)
    if options.precision == "int8_channel":
        check_int8_gemm("precision", "int8_channel")
    operators = installed_operators(options)
    activations = prefill_activations(options, config, limits, operators)
    integer = activations == "int16" and options.precision not in ("fp32", "int8_channel")  # which have no blocks of codes
    float_prompts = operators is None or activations == "fp32"
    width = head_width(config)
    key = cache_key(
        digest=checkpoint.digest,
        decoder=attrs.asdict(config),
        precision=options.precision,
        integer=integer,
        version=_GRAPH_VERSION,
        # Of others there are older folders that are right.
        **({} if width == config.head_dim else {"head_width": width}),
        **({} if operators is None else {"operators": operators.name, "float_prompts": float_prompts}),
    )

    def write(output: Place) -> dict[str, Any]:
        from llmasos_backend_onnx.decoder import build_decoder  # imports onnx, which a graph that is there does not need

        with context.progress("Building the ONNX decoder", total=config.num_layers + 1, unit="layers") as progress:
            built = build_decoder(
                checkpoint, output, options.precision, progress, integer=integer, operators=operators, float_prompts=float_prompts
            )
            return attrs.asdict(built)

    place, built = obtain_graphs(checkpoint, context, key, write)
    for note in built["notes"]:
        context.note(note)
    kv_bytes = kv_bytes_per_token(config)
    graphs: dict[str, int] = built["graphs"]
    for_prompts = {"int16": INTEGER_MODEL, "fp32": FLOAT_MODEL}.get(activations, MODEL)
    if for_prompts not in graphs:
        for_prompts = MODEL
    weight_bytes = sum(graphs[name] for name in {MODEL, for_prompts})
    room = kv_tokens(limits, weight_bytes, kv_bytes)
    length = min(config.context_length, limits.context_length or config.context_length, room or config.context_length)
    threads = options.threads or limits.threads
    cores = threads or os.cpu_count() or 1
    pool = getattr(operators, "pool", None)  # which operators of earlier versions do not have
    sessions = {
        name: open_session(
            graph_at(place, name),
            threads=threads,
            spin=options.spin,
            provider=options.provider,
            library=None if operators is None else operators.library,
            pool=(pool, cores) if pool and name in built["installed"] else None,
        )
        for name in dict.fromkeys((MODEL, for_prompts))
    }
    # After the longest sequence there must be room for the padding of a run.
    places = length + options.prefill_chunk + 1
    cache = KVCache(layers=config.num_layers, rows=limits.max_sequences, kv_heads=config.num_kv_heads, length=places, head_dim=width)
    ropes = Ropes.of(config, length)
    tables = [ropes.tables(places, phase) for phase in range(len(ropes.switches) + 1)]
    switches = [
        f"A sequence that grows past {switch:,} tokens has all of them computed again once, since its rotations change there."
        for switch in ropes.switches
    ]
    draws = None if operators is None else operators.draws
    extra = {feature for feature, offered in (("drafts", options.exact_drafts), ("sampling", draws is not None)) if offered}
    info = EngineInfo(
        vocab_size=config.vocab_size,
        context_length=length,
        max_sequences=limits.max_sequences,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=kv_bytes,
        dtype=built["dtype"],
        features=frozenset({"fork", "batch", "kv_cache"} | extra),
        notes=(*built["notes"], *switches, *unread_note(checkpoint)),
    )
    decoder = DecoderSession(
        sessions[MODEL],
        sessions[for_prompts],
        cache,
        tables,
        config.vocab_size,
        exact=options.exact_drafts,
        pairs=built["block_products"] and not rows_round_alike(),
        pads=operators is None or operators.attention is None,
    )
    histories = Histories(ropes) if ropes.switches else None
    return OnnxEngine(
        info,
        decoder,
        cache,
        prefill_chunk=options.prefill_chunk,
        kv_tokens=room,
        histories=histories,
        draws=draws,
        threads=cores,
    )
