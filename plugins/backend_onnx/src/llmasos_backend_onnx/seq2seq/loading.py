"""Makes an engine from the graphs of an exported encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmasos_backend_onnx.foreign.graph import read_graph
from llmasos_backend_onnx.limits import kv_tokens
from llmasos_backend_onnx.options import Options
from llmasos_backend_onnx.seq2seq.engine import Seq2SeqEngine
from llmasos_backend_onnx.seq2seq.graphs import find_graphs, read_signature
from llmasos_backend_onnx.session import open_session
from llmasos_decoder_kit.encoded_media import media_bytes
from llmasos_hookspecs import Checkpoint, CheckpointError, Context, EngineInfo, inspect_once

#: Tokens of a source, and of a target, of models whose config names no length (T5 attends by distance).
_LENGTH: Final = 512
_INSPECT: Final = "llmasos_backend_onnx.foreign.graph:inspect"
_INSPECTION: Final = 1


def load_seq2seq(checkpoint: Checkpoint, options: Options, context: Context) -> Seq2SeqEngine:
    """Open the three graphs.

    Raises:
        CheckpointError: a file is missing, damaged, or leads outside its folder.
        UnsupportedModel: the graphs are no encoder-decoder of text.
        ResourceError: the memory limit is too small.
    """
    files, limits = find_graphs(checkpoint.path), context.limits
    paths = [files.encoder, files.first, files.later]
    inspect_once(context, _INSPECT, paths, version=_INSPECTION)
    graphs = [read_graph(path, files.root) for path in paths]
    signature = read_signature(*graphs)
    config = checkpoint.config
    vocab_size = signature.vocab_size or _number(config, "decoder_vocab_size", "vocab_size")
    if vocab_size is None:
        raise CheckpointError(f"{checkpoint.path} has no config.json that says vocab_size; put the original model's beside the graphs.")
    threads = options.threads or limits.threads
    sessions = [open_session(graph.path, threads=threads, spin=options.spin, provider=options.provider) for graph in graphs]
    weights = sum(graph.weight_bytes for graph in graphs)
    itemsize = 4 if signature.dtype == "float32" else 2
    # A token of a source has keys and values in every layer, as one of a target has, and its hidden state.
    token_bytes = itemsize * (2 * signature.layers * signature.heads * signature.head_dim + (signature.width or 0))
    kept = media_bytes(limits, weights, options.media_cache << 20)
    room = kv_tokens(limits, weights + kept, token_bytes)
    length = _number(config, "max_position_embeddings", "n_positions") or _LENGTH
    bounds = [2 * length, *(bound for bound in (limits.context_length, None if room is None else room // limits.max_sequences) if bound)]
    info = EngineInfo(
        vocab_size=vocab_size,
        context_length=max(2, min(bounds)),
        max_sequences=limits.max_sequences,
        weight_bytes=weights,
        media_bytes=kept,
        kv_bytes_per_token=token_bytes,
        dtype=graphs[2].dtype,
        features=frozenset({"fork", "batch", "kv_cache", "source"}),
        source_length=max(2, min(bounds)) // 2,
    )
    return Seq2SeqEngine(*sessions, signature, info, source_vocab_size=_number(config, "vocab_size") or vocab_size)


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    found = (config.get(key) for key in keys)
    return next((value for value in found if type(value) is int and 0 < value < 1 << 31), None)
