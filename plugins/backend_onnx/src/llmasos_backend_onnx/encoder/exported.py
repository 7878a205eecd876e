"""Encoders that other tools exported to ONNX: run as they were stored, with the pooling that their folder asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto

from llmasos_backend_onnx.encoder.engine import Floats, OnnxEncoder, Padded
from llmasos_backend_onnx.foreign.files import find_files
from llmasos_backend_onnx.foreign.graph import ExportedGraph, Value, read_graph
from llmasos_backend_onnx.foreign.loading import INSPECT, INSPECTION, check_options
from llmasos_backend_onnx.options import Options
from llmasos_backend_onnx.session import open_session
from llmasos_encoder_kit.choice import is_classifier
from llmasos_encoder_kit.config import first_position
from llmasos_encoder_kit.fitting import batch_tokens
from llmasos_encoder_kit.sentence import Surroundings, surroundings
from llmasos_hookspecs import Checkpoint, CheckpointError, ConfigError, Context, EncoderInfo, UnsupportedModel, inspect_once

#: Inputs that an encoder may have, and outputs that hold its result: pooled ones first, then hidden states.
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
_POOLED: Final = ("sentence_embedding", "sentence_embeddings", "text_embeds")
_HIDDEN: Final = ("last_hidden_state", "token_embeddings", "hidden_states", "output_0")
_INTEGERS: Final = {TensorProto.INT64: np.int64, TensorProto.INT32: np.int32}
_DEFAULT_CONTEXT: Final = 512


def load_exported_encoder(checkpoint: Checkpoint, options: Options, context: Context) -> OnnxEncoder:
    """The encoder of an export.

    Raises:
        ConfigError: the options set what an export cannot change: the precision, or a pooling that its graph has done.
        CheckpointError: a file is missing, damaged, or leads outside its folder.
        UnsupportedModel: its inputs or outputs are no encoder's.
        ResourceError: the memory limit is too small.
    """
    check_options(options)
    files = find_files(checkpoint.path, checkpoint.config)
    inspect_once(context, INSPECT, [files.decoder], version=INSPECTION)
    graph = read_graph(files.decoder, files.root)
    scores = is_classifier(checkpoint.config)
    limits, config = context.limits, checkpoint.config
    first = first_position(config, str(checkpoint.path))
    asked = None if options.pooling == "auto" else options.pooling
    signature = _signature(graph, scores=scores, pooling=asked, first_position=first)
    around = surroundings(checkpoint, options)
    if scores:
        around = Surroundings(pooling=("cls",), ranks=True, max_length=around.max_length)
    elif signature.pooled:  # what comes after the pooling is in the graph too
        around = attrs.evolve(around, steps=())
    positions = (files.context_length or _DEFAULT_CONTEXT) - first
    if positions < 1:
        raise CheckpointError(f"{checkpoint.path} has no position for a token; get it again.")
    length = min(positions, around.max_length or positions, limits.context_length or positions)
    hidden = config.get("hidden_size")
    heads = config.get("num_attention_heads")
    width = hidden if isinstance(hidden, int) and 0 < hidden < 1 << 20 else 1024
    token_bytes = 4 * (20 * width + (heads if isinstance(heads, int) and 0 < heads < 1 << 12 else 16) * length)
    tokens = batch_tokens(options, limits, context_length=length, weight_bytes=graph.weight_bytes, token_bytes=token_bytes)
    session = open_session(files.decoder, threads=options.threads or limits.threads, spin=options.spin, provider=options.provider)
    info = EncoderInfo(
        dimensions=1,
        pooling=around.pooling_word,
        context_length=length,
        max_batch_tokens=tokens,
        vocab_size=_vocab_size(checkpoint),
        weight_bytes=graph.weight_bytes,
        batch_bytes=tokens * token_bytes,
        dtype=graph.dtype,
        features=frozenset({"rank" if scores else "embed"}),
        prompts=around.prompts,
        notes=around.notes if not signature.pooled else (),
    )
    found = _probed(session, signature, graph)
    dimensions = found.shape[-1] if found.ndim == 2 else around.dimensions(found.shape[-1])
    return OnnxEncoder(session, signature, around, attrs.evolve(info, dimensions=int(dimensions)))


def _probed(session: ort.InferenceSession, signature: ExportSignature, graph: ExportedGraph) -> Floats:
    """What the graph makes of ``_PROBE``: a vector [1, width], or hidden states [1, 2, width]."""
    try:
        found = signature.read(session.run([signature.output], dict(signature.feed(_PROBE))))
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UnsupportedModel(f"{graph.path} cannot be run on one text of 2 tokens ({reason[:200]}); export it again.") from error
    if found.shape[:-1] != ((1,) if signature.pooled else (1, 2)):
        wanted = "[1, width]" if signature.pooled else "[1, 2, width]"
        raise UnsupportedModel(
            f"{graph.path} gives numbers of the shape {list(found.shape)} for one text of 2 tokens in {signature.output[:60]!r}, and an "
            f"encoder's are {wanted}; export the model for feature extraction."
        )
    return found


#: One text of two tokens, which tells how wide the result is.
_PROBE: Final = Padded(np.zeros((1, 2), np.int64), np.zeros((1, 2), np.int64), np.array([2], np.int64))


@attrs.frozen(kw_only=True)
class ExportSignature:
    """Inputs and output of an export.

    Attributes:
        inputs: name -> type, of ``_INPUTS``.
        output: the one that is read.
        pooled: it is one vector for each text.
        first_position: the position of the first token.
    """

    inputs: Mapping[str, type[np.generic]]
    output: str
    pooled: bool
    first_position: int

    @property
    def outputs(self) -> Sequence[str]:
        return (self.output,)

    def feed(self, padded: Padded) -> Mapping[str, npt.NDArray[Any]]:
        places = np.broadcast_to(np.arange(padded.tokens.shape[1]) + self.first_position, padded.tokens.shape)
        values = {"input_ids": padded.tokens, "attention_mask": padded.mask, "token_type_ids": padded.types, "position_ids": places}
        return {name: np.ascontiguousarray(values[name].astype(dtype)) for name, dtype in self.inputs.items()}

    def read(self, outputs: Sequence[npt.NDArray[Any]]) -> Floats:
        return np.asarray(outputs[0], dtype=np.float32)


def _signature(graph: ExportedGraph, *, scores: bool, pooling: str | None, first_position: int) -> ExportSignature:
    """How the graph is run. ``pooling``: what the options ask for, so that hidden states are read where the graph gives them."""
    unknown = [value.name for value in graph.inputs if value.name not in _INPUTS or value.element not in _INTEGERS]
    if unknown or not any(value.name == "input_ids" for value in graph.inputs):
        raise UnsupportedModel(
            f"{graph.path} has the input {unknown[0][:60]!r}, which is no encoder's; export the model for feature extraction."
            if unknown
            else f"{graph.path} has no input input_ids; export the model for feature extraction."
        )
    named = {value.name: value for value in graph.outputs}
    wanted = ("logits",) if scores else (*_POOLED, *_HIDDEN) if pooling is None else (*_HIDDEN, *_POOLED)
    output = next((named[name] for name in wanted if name in named), None) or (graph.outputs[0] if len(graph.outputs) == 1 else None)
    if output is None:
        raise UnsupportedModel(f"{graph.path} has the outputs {', '.join(named)[:120]}, and one of {', '.join(wanted)} is needed.")
    inputs: dict[str, type[np.generic]] = {value.name: _INTEGERS[value.element] for value in graph.inputs}
    pooled = scores or _is_pooled(output)
    if pooled and not scores and pooling is not None:
        raise ConfigError(
            f'pooling is "{pooling}", and {graph.path} gives one vector for each text, which it has pooled itself; leave it "auto".',
            "loader.pooling",
        )
    return ExportSignature(inputs=inputs, output=output.name, pooled=pooled, first_position=first_position)


def _is_pooled(output: Value) -> bool:
    return output.name in _POOLED or (output.shape is not None and len(output.shape) == 2)


def _vocab_size(checkpoint: Checkpoint) -> int:
    size = checkpoint.config.get("vocab_size")
    return size if isinstance(size, int) and size > 0 else checkpoint.tokenizer().vocab_size
