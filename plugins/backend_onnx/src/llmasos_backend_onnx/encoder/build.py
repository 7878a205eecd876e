"""Builds the ONNX graph of an encoder from a checkpoint: token ids of padded texts to hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from llmasos_backend_onnx.graph import CONTRIB, GraphWriter
from llmasos_backend_onnx.graph_files import MODEL, InMemory
from llmasos_encoder_kit.config import EncoderConfig, EncoderLayer
from llmasos_encoder_kit.weights import EncoderWeights, LayerWeights, Matrix, Norm, rotations
from llmasos_hookspecs import Progress

#: Names of the graph's inputs, int64 [texts, tokens] but for the last two: int32 [texts, tokens], 1 for tokens and 0 for padding; float32
#: [1, heads or 1, tokens, tokens], added to the attention scores, where the model has a bias by distance, or windows.
IDS: Final = "input_ids"
TYPES: Final = "token_type_ids"
PLACES: Final = "position_ids"
MASK: Final = "attention_mask"
BIAS: Final = "attention_bias"
HIDDEN: Final = "last_hidden_state"


def has_bias(config: EncoderConfig) -> bool:
    """Whether something is added to the attention scores."""
    return bool(config.buckets) or any(layer.window is not None for layer in config.layers)


def build_encoder(
    weights: EncoderWeights, config: EncoderConfig, output: Path | InMemory, progress: Progress, length: int
) -> dict[str, Any]:
    """Write the graph for texts of up to ``length`` tokens into a folder, or into no file; returns what is to be kept beside it."""
    with GraphWriter(output) as writer:
        graph = _Encoder(writer, config, length)
        x = graph.embedded(weights)
        for index, kind in enumerate(config.layers):
            x = graph.layer(index, kind, weights.layer(index), x)
            progress.advance()
        graph.finish(x)
        return {"weight_bytes": writer.save(MODEL)}


class _Encoder:
    """The nodes of one graph."""

    def __init__(self, writer: GraphWriter, config: EncoderConfig, length: int) -> None:
        self._writer = writer
        self._config = config
        self._final: Norm | None = None
        self._length = length
        batch: list[int | str] = ["texts", "tokens"]
        writer.input(IDS, np.int64, batch)
        writer.input(MASK, np.int32, batch)
        if config.types:
            writer.input(TYPES, np.int64, batch)
        writer.input(PLACES, np.int64, batch)
        self._biases: dict[int | None, str] = {}
        for window in dict.fromkeys(layer.window for layer in config.layers):
            if config.buckets or window is not None:
                heads = config.num_heads if config.buckets else 1
                self._biases[window] = writer.input(
                    BIAS if len(self._biases) == 0 else f"{BIAS}.{window}", np.float32, [1, heads, "tokens", "tokens"]
                )

    def embedded(self, weights: EncoderWeights) -> str:
        """The sum of the embeddings, after its norm."""
        tables = weights.embeddings()
        self._final = tables.final_norm
        writer = self._writer
        x = writer.node("Gather", [writer.constant("words", tables.words), IDS], "words.out")
        if tables.positions is not None:
            table = writer.constant("positions", tables.positions[self._config.first_position :])
            x = writer.node("Add", [x, writer.node("Gather", [table, PLACES], "positions.out")], "words.placed")
        if tables.types is not None:
            table = writer.constant("types", tables.types)
            x = writer.node("Add", [x, writer.node("Gather", [table, TYPES], "types.out")], "words.typed")
        return self._norm("embeddings.norm", tables.norm, x)

    def layer(self, index: int, kind: EncoderLayer, weights: LayerWeights, x: str) -> str:
        """One layer."""
        place = f"layer.{index}"
        if not self._config.family.pre_norm:
            assert weights.attention_norm is not None
            x = self._added(f"{place}.attention_norm", weights.attention_norm, x, self._attention(place, kind, weights, x))
            return self._added(f"{place}.mlp_norm", weights.mlp_norm, x, self._mlp(place, weights, x))
        first = x if weights.attention_norm is None else self._norm(f"{place}.attention_norm", weights.attention_norm, x)
        x = self._writer.node("Add", [x, self._attention(place, kind, weights, first)], f"{place}.attended")
        return self._writer.node(
            "Add", [x, self._mlp(place, weights, self._norm(f"{place}.mlp_norm", weights.mlp_norm, x))], f"{place}.out"
        )

    def finish(self, x: str) -> None:
        """Name the result."""
        if self._final is not None:
            x = self._norm("final_norm", self._final, x)
        self._writer.node("Identity", [x], HIDDEN)
        self._writer.output(HIDDEN, np.float32, ["texts", "tokens", self._config.hidden_size])

    def _attention(self, place: str, kind: EncoderLayer, weights: LayerWeights, x: str) -> str:
        writer, config = self._writer, self._config
        size = config.hidden_size
        parts = []
        for index, name in enumerate(("q", "k", "v")):  # apart: a split of all three would copy them
            rows = slice(index * size, (index + 1) * size)
            bias = None if weights.qkv.bias is None else weights.qkv.bias[rows]
            parts.append(self._linear(f"{place}.{name}", Matrix(weights.qkv.weight[rows], bias), x))
        if kind.theta:
            parts[:2] = [self._rotated(f"{place}.{name}", part, kind.theta) for name, part in zip("qk", parts[:2], strict=True)]
        inputs = [*parts, "", MASK]
        if kind.window in self._biases:
            inputs.append(self._biases[kind.window])
        heads = config.num_heads
        out = writer.node("MultiHeadAttention", inputs, f"{place}.heads", domain=CONTRIB, num_heads=heads)
        return self._linear(f"{place}.o", weights.out, out)

    def _rotated(self, name: str, x: str, theta: float) -> str:
        writer = self._writer
        cos, sin = rotations(self._config, theta, self._length)
        tables = [writer.constant(f"cos.{theta:g}", cos), writer.constant(f"sin.{theta:g}", sin)]
        return writer.node("RotaryEmbedding", [x, PLACES, *tables], f"{name}.rotated", domain=CONTRIB, interleaved=0)

    def _mlp(self, place: str, weights: LayerWeights, x: str) -> str:
        config = self._config
        if not config.family.gated:
            inner = self._activated(f"{place}.up", self._linear(f"{place}.up", weights.up, x))
        else:
            size = config.intermediate_size
            halves = []
            for name, rows in (("gate", slice(size)), ("up", slice(size, 2 * size))):
                bias = None if weights.up.bias is None else weights.up.bias[rows]
                halves.append(self._linear(f"{place}.{name}", Matrix(weights.up.weight[rows], bias), x))
            inner = self._writer.node("Mul", [self._activated(f"{place}.gate", halves[0]), halves[1]], f"{place}.inner")
        return self._linear(f"{place}.down", weights.down, inner)

    def _activated(self, name: str, x: str) -> str:
        writer, out = self._writer, f"{name}.activated"
        if self._config.activation == "gelu":
            return writer.node("Gelu", [x], out, domain=CONTRIB)
        if self._config.activation == "gelu_tanh":
            return writer.node("FastGelu", [x], out, domain=CONTRIB)
        if self._config.activation == "relu":
            return writer.node("Relu", [x], out)
        return writer.node("Mul", [x, writer.node("Sigmoid", [x], f"{name}.sigmoid")], out)

    def _linear(self, name: str, matrix: Matrix, x: str) -> str:
        writer = self._writer
        out = writer.node("MatMul", [x, writer.constant(f"{name}.weight", np.ascontiguousarray(matrix.weight.T))], f"{name}.product")
        return out if matrix.bias is None else writer.node("Add", [out, writer.constant(f"{name}.bias", matrix.bias)], f"{name}.linear")

    def _norm(self, name: str, norm: Norm, x: str) -> str:
        inputs = [x, self._writer.constant(f"{name}.weight", norm.weight)]
        if norm.bias is not None:
            inputs.append(self._writer.constant(f"{name}.bias", norm.bias))
        return self._writer.node("LayerNormalization", inputs, f"{name}.out", epsilon=self._config.norm_eps, axis=-1)

    def _added(self, name: str, norm: Norm, x: str, more: str) -> str:
        """The norm of a sum."""
        return self._norm(name, norm, self._writer.node("Add", [x, more], f"{name}.sum"))
