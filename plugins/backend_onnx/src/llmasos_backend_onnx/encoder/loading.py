"""Makes an encoder from a checkpoint of named tensors: builds its graph, or finds it in the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.encoder.build import BIAS, HIDDEN, IDS, MASK, PLACES, TYPES, build_encoder, has_bias
from llmasos_backend_onnx.encoder.engine import Floats, OnnxEncoder, Padded
from llmasos_backend_onnx.graph_files import MODEL
from llmasos_backend_onnx.graphs import Place, graph_at, obtain_graphs
from llmasos_backend_onnx.options import Options
from llmasos_backend_onnx.session import open_session
from llmasos_decoder_kit.artifact import cache_key
from llmasos_encoder_kit.config import EncoderConfig, read_config
from llmasos_encoder_kit.fitting import batch_tokens
from llmasos_encoder_kit.sentence import classifier, surroundings
from llmasos_encoder_kit.weights import EncoderWeights, distance_biases
from llmasos_hookspecs import Checkpoint, ConfigError, Context, EncoderInfo

#: Version of the built graph, part of the cache key; increase it with every change of the graph.
_GRAPH_VERSION: Final = 1
#: What is added to the score of a token outside of a window; a mask of infinities would make rows of padding no numbers.
_FAR: Final = np.float32(-1e30)


def load_encoder(checkpoint: Checkpoint, options: Options, context: Context) -> OnnxEncoder:
    """The encoder of a checkpoint.

    Raises:
        UnsupportedModel: its family or its folder asks for what is not computed.
        CheckpointError: a tensor is missing or damaged.
        ConfigError: the options ask for another precision than float32.
        ResourceError: the memory limit is too small.
    """
    check_precision(options)
    config = read_config(checkpoint.config, str(checkpoint.path / "config.json"))
    weights = EncoderWeights(checkpoint, config)
    around = classifier(checkpoint, config, weights) or surroundings(checkpoint, options)
    key = cache_key(digest=checkpoint.digest, encoder=attrs.asdict(config), version=_GRAPH_VERSION)

    def write(output: Place) -> dict[str, Any]:
        with context.progress("Building the ONNX encoder", total=len(config.layers), unit="layers") as progress:
            return build_encoder(weights, config, output, progress, config.positions)

    place, built = obtain_graphs(checkpoint, context, key, write)
    limits = context.limits
    length = min(config.positions, around.max_length or config.positions, limits.context_length or config.positions)
    inner = config.intermediate_size * (2 if config.family.gated else 1)
    scores = config.num_heads * length if has_bias(config) else 0
    token_bytes = 4 * (8 * config.hidden_size + 3 * inner + scores)
    tokens = batch_tokens(options, limits, context_length=length, weight_bytes=built["weight_bytes"], token_bytes=token_bytes)
    info = EncoderInfo(
        dimensions=around.dimensions(config.hidden_size),
        pooling=around.pooling_word,
        context_length=length,
        max_batch_tokens=tokens,
        vocab_size=config.vocab_size,
        weight_bytes=built["weight_bytes"],
        batch_bytes=tokens * token_bytes,
        features=frozenset({"rank" if around.ranks else "embed"}),
        prompts=around.prompts,
        notes=around.notes,
    )
    session = open_session(graph_at(place, MODEL), threads=options.threads or limits.threads, spin=options.spin, provider=options.provider)
    relative = weights.embeddings().relative if config.buckets else None
    return OnnxEncoder(session, BuiltGraph(config, relative), around, info)


def check_precision(options: Options) -> None:
    """Raise ``ConfigError`` where the options ask an encoder to be rounded."""
    if options.precision not in ("auto", "fp32"):
        raise ConfigError(
            f'precision is "{options.precision}", and the loader onnx computes encoders in float32; leave it "auto".', "loader.precision"
        )


@attrs.frozen(eq=False)
class BuiltGraph:
    """A graph of ``build_encoder``; ``relative``: MPNet's attention biases by distance."""

    config: EncoderConfig
    relative: Floats | None
    outputs: Sequence[str] = (HIDDEN,)

    def feed(self, padded: Padded) -> Mapping[str, npt.NDArray[Any]]:
        length = padded.tokens.shape[1]
        inputs: dict[str, npt.NDArray[Any]] = {
            IDS: padded.tokens,
            MASK: padded.mask.astype(np.int32),
            PLACES: np.ascontiguousarray(np.broadcast_to(np.arange(length), padded.tokens.shape)),
        }
        if self.config.types:
            inputs[TYPES] = padded.types
        if self.relative is not None:
            inputs[BIAS] = distance_biases(self.config, self.relative, length)[None]
        for window in {layer.window for layer in self.config.layers} - {None}:
            places = np.arange(length)
            far = np.abs(places[:, None] - places) > window
            inputs[BIAS] = np.where(far, _FAR, np.float32(0))[None, None]
        return inputs

    def read(self, outputs: Sequence[npt.NDArray[Any]]) -> Floats:
        return np.asarray(outputs[0], dtype=np.float32)
