"""The ONNX graph of a decoder.

Every decoder that ``DecoderConfig`` describes (Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", arXiv:2302.13971,
and later families) as one graph over a KV cache that the caller owns. All layers except attention compute the N new tokens of all sequences
packed; attention computes B sequences padded on the right to S positions. Inputs, with KV buffers of T positions and heads of H elements
(``heads``):

    input_ids      int64 [N]
    batch          int64 [B, S]           index of the packed token at each position
    packed         int64 [N, 2]           (sequence, position) of each packed token
    queries        int32 [B]              positions that are computed; those after them are padding
    seqlens        int32 [B]              tokens of each sequence after this run, less 1
    total_length   int32 []               the longest sequence after this run
    wanted         int64 [W]              packed tokens whose logits are returned
    cos, sin       float32 [P, H / 2]     for each rope of the decoder; those after the first are called cos.1, sin.1, ...
    past.L.key, past.L.value              float32 [B, kv_heads, T, H]

Outputs: ``logits`` float32 [W, vocab] and ``present.L.key``, ``present.L.value``, which must be bound to the memory of the past inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import numpy as np

from llmasos_backend_onnx.attention import Attention
from llmasos_backend_onnx.graph import CONTRIB, GraphWriter
from llmasos_backend_onnx.graph_files import FLOAT_MODEL, INTEGER_MODEL, MODEL, InMemory
from llmasos_backend_onnx.norms import Norms
from llmasos_backend_onnx.options import Precision
from llmasos_backend_onnx.packing import BlockMatrix, block_of, pack
from llmasos_backend_onnx.projections import Projection, Projections
from llmasos_backend_onnx.rope import Ropes
from llmasos_decoder_kit.onnx_operators import OnnxOperators, PackedLinear
from llmasos_hookspecs import Checkpoint, DecoderConfig, Progress, QuantizedTensor

#: Activation -> the operator that computes it, its domain and its attributes.
_ACTIVATIONS: Final[dict[str, tuple[str, str, dict[str, float]]]] = {
    "silu": ("QuickGelu", CONTRIB, {"alpha": 1.0}),  # x * sigmoid(x)
    "gelu": ("Gelu", CONTRIB, {}),
    "gelu_tanh": ("FastGelu", CONTRIB, {}),
    "relu": ("Relu", "", {}),
    "relu2": ("Relu", "", {}),  # squared behind it
}


#: ONNX Runtime's operators whose work is worth threads that spin.
_COMPUTED: Final = frozenset({"MatMul", "MatMulNBits", "MatMulIntegerToFloat", "GroupQueryAttention"})


@attrs.define
class Built:
    """Facts of a built graph, for the engine's info and the cache's index.

    ``graphs``: name of each graph in the folder -> bytes of its weights in memory. ``block_products``: ONNX Runtime's own operators compute
    layers of block-quantised weights. ``installed``: the graphs whose products and attention are all installed operators'.
    """

    graphs: dict[str, int]
    dtype: str
    notes: tuple[str, ...]
    block_products: bool
    installed: tuple[str, ...]


def build_decoder(
    checkpoint: Checkpoint,
    output: Path | InMemory,
    precision: Precision,
    progress: Progress,
    *,
    integer: bool,
    operators: OnnxOperators | None = None,
    float_prompts: bool = True,
) -> Built:
    """Write the graph and its weights into a folder, or into no file: ``MODEL``, also ``FLOAT_MODEL`` if it has 4-bit layers, and with
    ``integer`` also ``INTEGER_MODEL`` if it has quantised layers.

    ``operators`` compute the quantised layers whose form they take. Their weights are no use to ``FLOAT_MODEL``, so without
    ``float_prompts`` it is left out.

    Raises:
        UnsupportedModel: ``DecoderConfig`` does not describe the checkpoint's decoder.
        CheckpointError: a tensor is missing or damaged.
    """
    with GraphWriter(output) as writer:
        projections = partial(Projections, integer=integer, operators=operators, float_prompts=float_prompts)
        decoder = _Decoder(checkpoint, writer, precision, progress, projections)
        decoder.build()
        bits = decoder.projections.bits
        names = [MODEL]
        names += [FLOAT_MODEL] * (4 in bits and float_prompts)
        names += [INTEGER_MODEL] * (integer and min(bits) < 32)
        graphs = {name: writer.save(name) for name in names}
        projected = decoder.projections
        return Built(
            graphs=graphs,
            dtype=projected.dtype(),
            notes=projected.notes(),
            block_products=projected.block_products,
            installed=tuple(name for name in names if not writer.operators(name) & _COMPUTED),
        )


class _Decoder:
    def __init__(
        self, checkpoint: Checkpoint, writer: GraphWriter, precision: Precision, progress: Progress, projections: Callable[..., Projections]
    ) -> None:
        self.checkpoint = checkpoint
        self.config: DecoderConfig = checkpoint.decoder
        self.writer = writer
        self.precision = precision
        self.progress = progress
        self.ropes = Ropes.of(self.config)
        self.norms = Norms(checkpoint, writer)
        self.projections = projections(checkpoint, writer, precision, self.norms)
        self.attention = Attention(self.config, writer, self.ropes, self.norms, self.projections)

    def build(self) -> None:
        config, writer = self.config, self.writer
        writer.input("input_ids", np.int64, ["N"])
        writer.input("batch", np.int64, ["B", "S"])
        writer.input("packed", np.int64, ["N", 2])
        writer.input("queries", np.int32, ["B"])
        writer.input("seqlens", np.int32, ["B"])
        writer.input("total_length", np.int32, [])
        writer.input("wanted", np.int64, ["W"])
        for rope in self.ropes.ropes:
            for table in self.ropes.inputs(rope):
                writer.input(table, np.float32, ["P", self.ropes.width // 2])
        hidden = self._scaled(self._embedding(), config.embedding_scale, "embedded.scaled")
        first = config.norms(0).get("attention_norm")
        normed = hidden if first is None else self.norms.alone("layers.0.norm", hidden, first, "normed")
        for layer in range(config.num_layers):
            hidden, normed = self._layer(layer, hidden, normed)
            self.progress.advance()
        self._head(normed)
        self.progress.advance()

    def _layer(self, layer: int, hidden: str, normed: str) -> tuple[str, str]:
        """The residual stream after a layer, and its norm, the input of the next layer."""
        config, writer, name = self.config, self.writer, f"layers.{layer}"
        norms, last = config.norms(layer), layer == config.num_layers - 1
        attended = self.attention.emit(layer, normed, last=last)
        if last:
            # The rest of the last layer computes each token independently, so only tokens whose logits are wanted continue.
            hidden = writer.node("Gather", [hidden, "wanted"], "hidden.wanted")
        projected = self.projections.one(f"{name}.o", config.linears(layer)["o"], attended)
        addend = self._block_output(f"{name}.o", projected, norms.get("attention_out_norm"))
        if config.block == "parallel":
            fed = self._feed_forward(layer, self._parallel_mlp_input(layer, hidden, normed, last=last))
            addend = writer.node("Add", [addend, self._block_output(f"{name}.down", fed, norms.get("mlp_out_norm"))], f"{name}.both")
        else:
            hidden, normed = self.norms.of_sum(f"{name}.post", hidden, addend, norms.get("mlp_norm"))
            addend = self._block_output(f"{name}.down", self._feed_forward(layer, normed), norms.get("mlp_out_norm"))
        following = config.names.final_norm if last else config.norms(layer + 1).get("attention_norm")
        return self.norms.of_sum(f"{name}.out", hidden, addend, following, last=last)

    def _parallel_mlp_input(self, layer: int, hidden: str, normed: str, *, last: bool) -> str:
        """The input of the feed-forward in a parallel block."""
        module = self.config.norms(layer).get("mlp_norm")
        if module is not None:
            return self.norms.alone(f"layers.{layer}.mlp.norm", hidden, module, f"layers.{layer}.mlp.normed")
        if not last:
            return normed
        self.norms.bounds["normed.wanted"] = self.norms.bounds.get(normed)
        return self.writer.node("Gather", [normed, "wanted"], "normed.wanted")

    def _block_output(self, name: str, value: str, norm: str | None) -> str:
        """What a block adds to the residual stream: its output with the decoder's output norm and scale, if any."""
        if norm is not None:
            value = self.norms.alone(f"{name}.norm", value, norm, f"{name}.normed")
        return self._scaled(value, self.config.residual_scale, f"{name}.scaled")

    def _scaled(self, value: str, scale: float, output: str) -> str:
        if scale == 1.0:
            return value
        factor = self.writer.constant(f"{output}.factor", np.array(scale, dtype=np.float32))
        return self.writer.node("Mul", [value, factor], output)

    def _embedding(self) -> str:
        """Rows of the embedding in the precision of their storage."""
        writer, tensor = self.writer, self.checkpoint.tensor(f"{self.config.names.embedding}.weight")
        operators = self.projections.operators
        if isinstance(tensor, QuantizedTensor):
            packed = None if self.precision == "fp32" or operators is None else operators.linear([tensor])
            if packed is not None:
                return self._installed_embedding(packed)
            block = block_of(tensor)
            if self.precision != "fp32" and block is not None and tensor.minimums is None:
                return self._quantized_embedding(pack(tensor, bits=4 if tensor.bits <= 4 else 8, block=block))
            tensor = tensor.dequantize()
        rows = writer.node("Gather", [writer.constant("embedding", tensor), "input_ids"], "embedded")
        if tensor.dtype == np.float32:
            return rows
        return writer.node("Cast", [rows], "embedded.float32", to=1)

    def _embedding_prefix(self) -> str:
        """The name of a tied head's weights, so that one copy in the file serves both; else one of their own."""
        return "head" if self.config.tie_embeddings and self.precision in ("auto", "int8") else "embedding"

    def _installed_embedding(self, packed: PackedLinear) -> str:
        inputs = [self.writer.constant(f"{self._embedding_prefix()}.packed", packed.data), "input_ids"]
        return self.writer.node(packed.rows_of, inputs, "embedded", domain=packed.domain, **packed.attributes)

    def _quantized_embedding(self, matrix: BlockMatrix) -> str:
        writer, prefix = self.writer, self._embedding_prefix()
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

    def _feed_forward(self, layer: int, value: str) -> str:
        config, name, parts = self.config, f"layers.{layer}", self.config.linears(layer)
        if config.gated:
            both = [Projection(parts["gate"]), Projection(parts["up"])]
            gate, up = self.projections.split(
                f"{name}.gate_up", both, value, gated=f"{name}.gated" if config.activation == "silu" else None
            )
            product = self.writer.node("Mul", [self._activated(name, gate), up], f"{name}.gated")
        else:
            product = self._activated(name, self.projections.one(f"{name}.up", parts["up"], value))
        return self.projections.one(f"{name}.down", parts["down"], product)

    def _activated(self, name: str, value: str) -> str:
        op, domain, attributes = _ACTIVATIONS[self.config.activation]
        activated = self.writer.node(op, [value], f"{name}.activated", domain=domain, **attributes)
        if self.config.activation != "relu2":
            return activated
        return self.writer.node("Mul", [activated, activated], f"{name}.squared")

    def _head(self, normed: str) -> None:
        config, writer, names = self.config, self.writer, self.config.names
        module = names.embedding if config.tie_embeddings else names.head
        logits = self.projections.head(module, f"{names.head}.bias" if config.head_bias else None, normed)
        logits = self._scaled(logits, config.logit_scale, "head.scaled")
        if config.logit_softcap is not None:
            cap = writer.constant("head.cap", np.array(config.logit_softcap, dtype=np.float32))
            within = writer.node("Tanh", [writer.node("Div", [logits, cap], "head.of_cap")], "head.within_cap")
            logits = writer.node("Mul", [within, cap], "head.capped")
        writer.output("logits", np.float32, ["W", config.vocab_size])
        writer.node("Identity", [logits], "logits")
