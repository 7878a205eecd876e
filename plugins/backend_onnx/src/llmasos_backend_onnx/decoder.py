"""The ONNX graph of a Llama-family decoder.

Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", arXiv:2302.13971, and its descendants, as one graph over
a KV cache that the caller owns. All layers but attention see the N new tokens of all sequences one behind the other; attention sees
B sequences of S places, filled up behind. Inputs, with buffers of T places:

    input_ids      int64 [N]
    batch          int64 [B, S]           the token in each place
    packed         int64 [N, 2]           (sequence, place) of each token
    queries        int32 [B]              places that are computed; what is behind them is filler
    seqlens        int32 [B]              tokens of each sequence after this run, less 1
    total_length   int32 []               the longest sequence after this run
    wanted         int64 [W]              tokens whose logits are asked for
    cos, sin       float32 [P, head_dim / 2]
    past.L.key, past.L.value              float32 [B, kv_heads, T, head_dim]

Outputs: ``logits`` float32 [W, vocab] and ``present.L.key``, ``present.L.value``, which must be bound to the memory of the past.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np

from llmasos_backend_onnx.graph import CONTRIB, FLOAT_MODEL, INTEGER_MODEL, MODEL, GraphWriter
from llmasos_backend_onnx.integer import RowMatrix, bound_of_norm
from llmasos_backend_onnx.linear import Weights, choose, emit, loses
from llmasos_backend_onnx.options import Precision
from llmasos_backend_onnx.packing import BlockMatrix, block_of, pack
from llmasos_hookspecs import Checkpoint, DecoderConfig, Progress, QuantizedTensor, Tensor, as_float32


@attrs.define
class Built:
    """What was built: for the engine's info and the cache's index.

    ``graphs``: the name of each graph in the folder, and the bytes of its weights in memory.
    """

    graphs: dict[str, int]
    dtype: str
    notes: tuple[str, ...]


def build_decoder(checkpoint: Checkpoint, folder: Path, precision: Precision, progress: Progress, *, integer: bool) -> Built:
    """Write the graph and its weights into ``folder``: ``MODEL``, ``FLOAT_MODEL`` where it has 4-bit layers, and if ``integer``
    ``INTEGER_MODEL`` where it has quantised ones.

    Raises:
        UnsupportedModel: the checkpoint is no Llama-family decoder.
        CheckpointError: a tensor is missing or damaged.
    """
    with GraphWriter(folder) as writer:
        decoder = _Decoder(checkpoint, writer, precision, progress, integer=integer)
        decoder.build()
        names = [MODEL]
        names += [FLOAT_MODEL] * (4 in decoder.bits)
        names += [INTEGER_MODEL] * (integer and min(decoder.bits) < 32)
        return Built(graphs={name: writer.save(name) for name in names}, dtype=decoder.dtype(), notes=decoder.notes())


class _Decoder:
    def __init__(self, checkpoint: Checkpoint, writer: GraphWriter, precision: Precision, progress: Progress, *, integer: bool) -> None:
        self.checkpoint = checkpoint
        self.config: DecoderConfig = checkpoint.decoder
        self.writer = writer
        self.precision = precision
        self.progress = progress
        self.integer = integer
        self.names = set(checkpoint.names())
        self.rounded = 0
        self.dequantized = 0
        self.bits: list[int] = []
        #: Norms and what none of their elements passes.
        self.bounds: dict[str, float | None] = {}

    def build(self) -> None:
        config, writer = self.config, self.writer
        writer.input("input_ids", np.int64, ["N"])
        writer.input("batch", np.int64, ["B", "S"])
        writer.input("packed", np.int64, ["N", 2])
        writer.input("queries", np.int32, ["B"])
        writer.input("seqlens", np.int32, ["B"])
        writer.input("total_length", np.int32, [])
        writer.input("wanted", np.int64, ["W"])
        for table in ("cos", "sin"):
            writer.input(table, np.float32, ["P", config.head_dim // 2])
        hidden = self._embedding()
        hidden, normed = self._first_norm(hidden)
        for layer in range(config.num_layers):
            attended, places = self._attention(layer, normed), "packed"
            if layer == config.num_layers - 1:
                # The rest of the last layer touches each token by itself: only those whose logits are wanted go on.
                places = writer.node("Gather", ["packed", "wanted"], "packed.wanted")
                hidden = writer.node("Gather", [hidden, "wanted"], "hidden.wanted")
            attended = writer.node("GatherND", [attended, places], f"layers.{layer}.attended.packed")
            projected = self._linear(f"layers.{layer}.o", [f"model.layers.{layer}.self_attn.o_proj"], attended, bias=config.output_bias)
            hidden, normed = self._skip_norm(f"layers.{layer}.post", hidden, projected, f"model.layers.{layer}.post_attention_layernorm")
            fed = self._feed_forward(layer, normed)
            last = layer == config.num_layers - 1
            norm = "model.norm" if last else f"model.layers.{layer + 1}.input_layernorm"
            hidden, normed = self._skip_norm(f"layers.{layer}.out", hidden, fed, norm, last=last)
            self.progress.advance()
        self._head(normed)
        self.progress.advance()

    def dtype(self) -> str:
        """What most linear layers are computed from."""
        bits = max(set(self.bits), key=self.bits.count)
        return {32: "float32", 8: "int8", 4: "int4"}[bits]

    def notes(self) -> tuple[str, ...]:
        """What the user should know of the weights."""
        notes = []
        if self.rounded:
            what = "to 8 bits with one scale a row" if self.precision == "int8_channel" else "to fewer bits than they are stored in"
            notes.append(f"precision = {self.precision!r} rounded {self.rounded} weight matrices {what}.")
        if self.dequantized:
            notes.append(
                f"{self.dequantized} quantised weight matrices are computed in float32, since ONNX Runtime has no blocks for their groups."
            )
        return tuple(notes)

    def _tensor(self, name: str) -> Tensor:
        return self.checkpoint.tensor(f"{name}.weight")

    def _vector(self, name: str) -> np.ndarray:
        return as_float32(self.checkpoint.tensor(name))

    def _embedding(self) -> str:
        """Rows of the embedding at the precision they are stored in."""
        writer, tensor = self.writer, self._tensor("model.embed_tokens")
        if isinstance(tensor, QuantizedTensor):
            block = block_of(tensor)
            if self.precision != "fp32" and block is not None and tensor.minimums is None:
                return self._quantized_embedding(pack(tensor, bits=4 if tensor.bits <= 4 else 8, block=block))
            tensor = tensor.dequantize()
        rows = writer.node("Gather", [writer.constant("embedding", tensor), "input_ids"], "embedded")
        if tensor.dtype == np.float32:
            return rows
        return writer.node("Cast", [rows], "embedded.float32", to=1)

    def _quantized_embedding(self, matrix: BlockMatrix) -> str:
        writer = self.writer
        # The name of a tied head's codes, so that one copy in the file serves both.
        prefix = "head" if self.config.tie_embeddings and self.precision in ("auto", "int8") else "embedding"
        codes = writer.constant(f"{prefix}.codes", matrix.codes)
        writer.view("embedding.rows", codes, (matrix.rows, matrix.codes.shape[1] * matrix.codes.shape[2]))
        zero_points = matrix.packed_zero_points()
        inputs = ["embedding.rows", "input_ids", writer.constant(f"{prefix}.scales", matrix.scales)]
        if zero_points is not None:
            inputs.append(writer.constant(f"{prefix}.zero_points", zero_points))
        return writer.node(
            "GatherBlockQuantized",
            inputs,
            "embedded",
            domain=CONTRIB,
            gather_axis=0,
            quantize_axis=1,
            block_size=matrix.block,
            bits=matrix.bits,
        )

    def _first_norm(self, hidden: str) -> tuple[str, str]:
        weights = self._vector("model.layers.0.input_layernorm.weight")
        self.bounds["normed"] = bound_of_norm(weights)
        gamma = self.writer.constant("layers.0.norm", weights)
        return hidden, self.writer.node("SimplifiedLayerNormalization", [hidden, gamma], "normed", axis=-1, epsilon=self.config.norm_eps)

    def _skip_norm(self, name: str, hidden: str, addend: str, norm: str, *, last: bool = False) -> tuple[str, str]:
        """``hidden + addend`` and its RMS norm."""
        weights = self._vector(f"{norm}.weight")
        self.bounds[f"{name}.normed"] = bound_of_norm(weights)
        gamma = self.writer.constant(f"{name}.norm", weights)
        outputs = [f"{name}.normed"] if last else [f"{name}.normed", "", "", f"{name}.hidden"]
        self.writer.node("SkipSimplifiedLayerNormalization", [hidden, addend, gamma], outputs, domain=CONTRIB, epsilon=self.config.norm_eps)
        return f"{name}.hidden", f"{name}.normed"

    def _attention(self, layer: int, normed: str) -> str:
        config, writer = self.config, self.writer
        prefix, name = f"model.layers.{layer}.self_attn", f"layers.{layer}"
        parts = [f"{prefix}.{part}_proj" for part in "qkv"]
        widths = [config.num_heads * config.head_dim, config.kv_width, config.kv_width]
        if config.qk_norm:
            query, key, value = self._split(f"{name}.qkv", parts, normed, widths, bias=config.attention_bias)
            query = self._head_norm(f"{name}.q", query, f"{prefix}.q_norm", config.num_heads)
            key = self._head_norm(f"{name}.k", key, f"{prefix}.k_norm", config.num_kv_heads)
            states = [query, key, value]
        else:
            states = self._joined(f"{name}.qkv", parts, normed, bias=config.attention_bias)
        states = [writer.node("Gather", [state, "batch"], f"{state}.batch") for state in states]
        past = [writer.input(f"past.{layer}.{kind}", np.float32, self._cache_shape()) for kind in ("key", "value")]
        present = [writer.output(f"present.{layer}.{kind}", np.float32, self._cache_shape()) for kind in ("key", "value")]
        # The operator's window counts the tokens before the current one and itself.
        return writer.node(
            "GroupQueryAttention",
            [*states, *[""] * (3 - len(states)), *past, "seqlens", "total_length", "cos", "sin", *[""] * 7, "queries"],
            [f"{name}.attended", *present],
            domain=CONTRIB,
            num_heads=config.num_heads,
            kv_num_heads=config.num_kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
            local_window_size=-1 if config.sliding_window is None else config.sliding_window,
        )

    def _cache_shape(self) -> list[int | str]:
        return ["B", self.config.num_kv_heads, "T", self.config.head_dim]

    def _head_norm(self, name: str, value: str, norm: str, heads: int) -> str:
        """RMS norm over each head's dimensions."""
        writer, config = self.writer, self.config
        apart = writer.constant(f"apart{heads}", np.array([0, heads, config.head_dim], dtype=np.int64))
        together = writer.constant(f"together{heads}", np.array([0, heads * config.head_dim], dtype=np.int64))
        gamma = writer.constant(f"{name}.norm", self._vector(f"{norm}.weight"))
        split = writer.node("Reshape", [value, apart], f"{name}.heads")
        normed = writer.node("SimplifiedLayerNormalization", [split, gamma], f"{name}.normed", axis=-1, epsilon=config.norm_eps)
        return writer.node("Reshape", [normed, together], f"{name}.joined")

    def _feed_forward(self, layer: int, normed: str) -> str:
        config, writer, name = self.config, self.writer, f"layers.{layer}"
        prefix = f"model.layers.{layer}.mlp"
        widths = [config.intermediate_size] * 2
        parts = [f"{prefix}.gate_proj", f"{prefix}.up_proj"]
        gate, up = self._split(f"{name}.gate_up", parts, normed, widths, bias=config.mlp_bias)
        activated = writer.node("QuickGelu", [gate], f"{name}.activated", domain=CONTRIB, alpha=1.0)  # x * sigmoid(x)
        product = writer.node("Mul", [activated, up], f"{name}.gated")
        return self._linear(f"{name}.down", [f"{prefix}.down_proj"], product, bias=config.mlp_bias)

    def _head(self, normed: str) -> None:
        tied = self.config.tie_embeddings or "lm_head.weight" not in self.names
        tensor = self._tensor("model.embed_tokens" if tied else "lm_head")
        # The head decides between tokens: where the user asks for 4 bits it keeps 8.
        precision = "int8" if self.precision == "int4" else self.precision
        weights = choose([tensor], precision)
        assert weights is not None
        self._count([tensor], weights, precision)
        logits = emit(self.writer, "head", weights, normed, integer=self.integer, bound=self.bounds[normed])
        self.writer.output("logits", np.float32, ["W", self.config.vocab_size])
        self.writer.node("Identity", [logits], "logits")

    def _linear(self, name: str, parts: Sequence[str], value: str, *, bias: bool = False) -> str:
        joined = self._joined(name, parts, value, bias=bias)
        assert len(joined) == 1
        return joined[0]

    def _joined(self, name: str, parts: Sequence[str], value: str, *, bias: bool = False) -> list[str]:
        """One linear layer for all parts where their weights have a form in common, else one for each."""
        tensors = [self._tensor(part) for part in parts]
        weights = choose(tensors, self.precision)
        if weights is not None:
            self._count(tensors, weights, self.precision)
            biases = np.concatenate([self._vector(f"{part}.bias") for part in parts]) if bias else None
            return [emit(self.writer, name, weights, value, biases, integer=self.integer, bound=self.bounds.get(value))]
        return [output for part in parts for output in self._joined(f"{name}.{part.rpartition('.')[2]}", [part], value, bias=bias)]

    def _split(self, name: str, parts: Sequence[str], value: str, widths: Sequence[int], *, bias: bool = False) -> list[str]:
        outputs = self._joined(name, parts, value, bias=bias)
        if len(outputs) > 1:
            return outputs
        sizes = self.writer.constant(f"sizes{'_'.join(map(str, widths))}", np.array(widths, dtype=np.int64))
        names = [f"{name}.part{index}" for index in range(len(widths))]
        self.writer.node("Split", [outputs[0], sizes], names, axis=-1)
        return names

    def _count(self, tensors: Sequence[Tensor], weights: Weights, precision: Precision) -> None:
        """Keep account of what became of stored tensors."""
        self.bits.append(weights.bits if isinstance(weights, BlockMatrix) else 8 if isinstance(weights, RowMatrix) else 32)
        if isinstance(weights, BlockMatrix | RowMatrix):
            self.rounded += sum(loses(tensor, precision) for tensor in tensors)
        elif precision != "fp32":
            self.dequantized += sum(isinstance(tensor, QuantizedTensor) for tensor in tensors)
