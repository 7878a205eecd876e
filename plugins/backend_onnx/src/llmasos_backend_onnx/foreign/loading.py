"""Makes a running engine from an exported decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import onnxruntime as ort

from llmasos_backend_onnx.foreign.engine import ExportedEngine
from llmasos_backend_onnx.foreign.files import ExportFiles, find_files
from llmasos_backend_onnx.foreign.graph import ExportedGraph, read_graph
from llmasos_backend_onnx.foreign.growing import GrowingSequences
from llmasos_backend_onnx.foreign.in_place import InPlaceSequences
from llmasos_backend_onnx.foreign.recomputing import RecomputingSequences
from llmasos_backend_onnx.foreign.runs import ExportedDecoder
from llmasos_backend_onnx.foreign.sequences import Abilities, Sequences
from llmasos_backend_onnx.foreign.signature import Signature, read_signature
from llmasos_backend_onnx.foreign.trials import find_abilities
from llmasos_backend_onnx.limits import kv_tokens
from llmasos_backend_onnx.options import Options
from llmasos_backend_onnx.session import open_session
from llmasos_decoder_kit.kv_cache import KVCache
from llmasos_hookspecs import Checkpoint, ConfigError, Context, EngineInfo, UnsupportedModel, inspect_once

#: Context length of an export whose files do not state one.
_DEFAULT_CONTEXT: Final = 2048
#: Tokens, and sequences, that the trials need.
_TRIAL_TOKENS: Final = 16
_TRIAL_SEQUENCES: Final = 2
#: Memory of a growing cache relative to its tokens: it has a read and a write buffer, and a batch is padded by up to a quarter.
_GROWING_SHARE: Final = 2.5

#: What inspects a graph at first sight, and the version of its checks.
INSPECT: Final = "llmasos_backend_onnx.foreign.graph:inspect"
INSPECTION: Final = 1

_NO_CACHE: Final = "The export keeps no KV cache, so each step computes all the tokens before it again; export it with past_key_values."
_NO_CHUNKS: Final = "The export takes one token a run behind its cache, so what a prompt adds to a conversation is computed slowly."
_NO_BATCH: Final = "The export does not compute several sequences together as it does alone, so they take turns."
_SHARED_SCALE: Final = (
    "The export rounds activations with one scale a run (DynamicQuantizeLinear), so logits depend a little on how a prompt is cut."
)
_LAST_ONLY: Final = "The export gives logits of the last token only, so scoring a text takes a run for each of its tokens."


@attrs.frozen(kw_only=True, eq=False)
class _Opened:
    """The graphs of an export with sessions; ``first`` is ``decoder`` if one graph computes prompts and later tokens.

    ``in_place``: every layer writes its cache into the memory it reads.
    """

    files: ExportFiles
    graph: ExportedGraph
    first: ExportedDecoder
    decoder: ExportedDecoder
    weight_bytes: int
    in_place: bool = False

    @property
    def signature(self) -> Signature:
        return self.decoder.signature

    @property
    def caches(self) -> bool:
        return self.signature.past


def load_export(checkpoint: Checkpoint, options: Options, context: Context) -> ExportedEngine:
    """Open a decoder that another tool exported, test its abilities, and make an engine of it.

    Raises:
        ConfigError: the options set what an export cannot change.
        CheckpointError: a file is missing, damaged, or leads outside its folder.
        UnsupportedModel: it is no decoder of text, or one of another form.
        ResourceError: the memory limit is too small.
    """
    check_options(options)
    limits = context.limits
    opened = _open(find_files(checkpoint.path, checkpoint.config), options, context)
    opened.first.probe()
    opened.decoder.form = opened.first.form
    opened, abilities = _try_out(opened, options.prefill_chunk)
    token_bytes = opened.signature.cache_bytes if opened.caches else 0
    room = kv_tokens(limits, opened.weight_bytes, token_bytes if opened.in_place else int(token_bytes * _GROWING_SHARE))
    context_length = _context_length(opened, limits.context_length, None if room is None else room // limits.max_sequences)
    features = {"fork"} | ({"kv_cache"} if opened.caches else set()) | ({"batch"} if abilities.batch != "none" else set())
    notes = tuple(_notes(opened, abilities))
    for note in notes:
        context.note(note)
    info = EngineInfo(
        vocab_size=opened.decoder.form.vocab_size,
        context_length=context_length,
        max_sequences=limits.max_sequences,
        weight_bytes=opened.weight_bytes,
        kv_bytes_per_token=token_bytes,
        dtype=opened.graph.dtype,
        features=frozenset(features),
        notes=notes,
    )
    sequences = _sequences(opened, abilities, most=limits.max_sequences, length=context_length, chunk=options.prefill_chunk)
    return ExportedEngine(info, sequences, kv_tokens=room)


def _try_out(opened: _Opened, chunk: int) -> tuple[_Opened, Abilities]:
    """The abilities of the export; with an in-place cache if its results are correct in place."""
    if not opened.caches:
        return opened, Abilities()

    def find(form: _Opened) -> tuple[_Opened, Abilities]:
        def make(abilities: Abilities) -> Sequences:
            return _sequences(form, abilities, most=_TRIAL_SEQUENCES, length=_TRIAL_TOKENS, chunk=chunk)

        return form, find_abilities(make, form.graph, form.decoder.form.vocab_size)

    try:
        return find(opened)
    except UnsupportedModel:
        if not opened.in_place:
            raise
    return find(attrs.evolve(opened, in_place=False))


def check_options(options: Options) -> None:
    """Raise ``ConfigError`` for options that change how weights are stored."""
    for name in ("precision", "prefill_activations"):
        value = getattr(options, name)
        if value != "auto":
            raise ConfigError(f'{name} is "{value}", and an exported decoder runs as it was stored; leave it "auto".', f"loader.{name}")


def _open(files: ExportFiles, options: Options, context: Context) -> _Opened:
    def start(path: Path) -> tuple[ExportedGraph, ExportedDecoder]:
        inspect_once(context, INSPECT, [path], version=INSPECTION)
        graph = read_graph(path, files.root)
        signature = read_signature(graph, files)
        return graph, ExportedDecoder(_session(path, options, context.limits.threads), signature)

    graph, decoder = start(files.decoder)
    if files.first is None:
        cache = decoder.signature.cache
        in_place = all(tensor.past in graph.in_place for tensor in cache) and len({(tensor.heads, tensor.dim) for tensor in cache}) == 1
        return _Opened(files=files, graph=graph, first=decoder, decoder=decoder, weight_bytes=graph.weight_bytes, in_place=in_place)
    first_graph, first = start(files.first)
    if [t.present for t in first.signature.cache] != [t.present for t in decoder.signature.cache]:
        raise UnsupportedModel(f"{files.first} gives other keys and values than {files.decoder.name} takes; export both again.")
    return _Opened(files=files, graph=graph, first=first, decoder=decoder, weight_bytes=graph.weight_bytes + first_graph.weight_bytes)


def _session(path: Path, options: Options, threads: int | None) -> ort.InferenceSession:
    return open_session(path, threads=options.threads or threads, spin=options.spin, provider=options.provider)


def _sequences(opened: _Opened, abilities: Abilities, *, most: int, length: int, chunk: int) -> Sequences:
    if not opened.caches:
        return RecomputingSequences(opened.decoder, most=most)
    if not opened.in_place:
        return GrowingSequences(opened.first, opened.decoder, abilities, most=most, chunk=chunk)
    signature = opened.signature
    cache = KVCache(
        layers=len(signature.cache) // 2,
        rows=most,
        kv_heads=signature.cache[0].heads,
        length=length,
        head_dim=signature.cache[0].dim,
        dtype=signature.cache_dtype,
    )
    return InPlaceSequences(opened.decoder, abilities, cache, weight_bytes=opened.weight_bytes, chunk=chunk)


def _context_length(opened: _Opened, asked: int | None, room: int | None) -> int:
    """The smallest of the requested length, the memory's capacity, the length in the files, and the length of the rotary tables."""
    fixed = None if opened.caches else opened.signature.length
    own = [bound for bound in (opened.files.context_length, opened.graph.rotary_length, fixed) if bound is not None]
    return min([*(own or [_DEFAULT_CONTEXT]), *(bound for bound in (asked, room) if bound is not None)])


def _notes(opened: _Opened, abilities: Abilities) -> list[str]:
    notes = []
    if not opened.caches:
        notes.append(_NO_CACHE)
    elif not abilities.chunks:
        notes.append(_NO_CHUNKS)
    if opened.caches and abilities.batch == "none":
        notes.append(_NO_BATCH)
    if opened.graph.rounds_a_run:
        notes.append(_SHARED_SCALE)
    if opened.decoder.form.last_only:
        notes.append(_LAST_ONLY)
    if opened.files.context_length is None and opened.graph.rotary_length is None:
        notes.append(f"The export does not say how long its context is, so {_DEFAULT_CONTEXT} tokens are taken at most.")
    return notes
