"""Emits the linear layers of a decoder from its stored tensors."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from llmasos_backend_onnx.graph import GraphWriter
from llmasos_backend_onnx.heads import Indices, chosen_rows
from llmasos_backend_onnx.installed_product import InstalledProduct
from llmasos_backend_onnx.integer import RowMatrix
from llmasos_backend_onnx.linear import Floats, InstalledForm, Weights, choose, emit, loses
from llmasos_backend_onnx.norms import Norms
from llmasos_backend_onnx.options import Precision
from llmasos_backend_onnx.packing import BlockMatrix
from llmasos_decoder_kit.onnx_operators import OnnxOperators
from llmasos_hookspecs import Checkpoint, Part, QuantizedTensor, Tensor, as_float32


@attrs.frozen(eq=False)
class Projection:
    """A part of a stored tensor and the order of its rows in the graph; ``rows`` None: the stored order."""

    part: Part
    rows: Indices | None = None

    @property
    def width(self) -> int:
        """Rows in the graph: the last dimension of the output."""
        return self.part.shape[0] if self.rows is None else len(self.rows)

    def of(self, tensor: Tensor) -> Tensor:
        """The rows of the stored tensor, a matrix or a bias, in the graph's order."""
        stored = self.part.row_indices()
        whole = tensor if stored is None else chosen_rows(tensor, np.array(stored, dtype=np.int64))
        return chosen_rows(whole, self.rows)


class Projections:
    """Emits linear layers; layers with the same input are merged if their weights share a format.

    Args:
        norms: those whose results are inputs of layers.
        operators: installed ones, which take what they can of quantised layers.
        float_prompts: whether ``FLOAT_MODEL`` is written, if there are such operators.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        writer: GraphWriter,
        precision: Precision,
        norms: Norms,
        *,
        integer: bool,
        operators: OnnxOperators | None = None,
        float_prompts: bool = True,
    ) -> None:
        self.checkpoint = checkpoint
        self.writer = writer
        self.precision = precision
        self.norms = norms
        self.integer = integer
        self.operators = operators
        self.float_prompts = float_prompts
        self.rounded = 0
        self.block_products = False
        self.dequantized = 0
        self.bits: list[int] = []
        self._last: tuple[str, Tensor] | None = None

    def one(self, name: str, part: Part, value: str) -> str:
        """The output of one layer."""
        return self.joined(name, [Projection(part)], value)[0]

    def split(self, name: str, projections: Sequence[Projection], value: str, *, gated: str | None = None) -> list[str]:
        """The separate outputs of several layers with the same input.

        ``gated``: the value that the caller computes of two as ``silu(first) * second``; operators that can do so themselves do.
        """
        outputs = self.joined(name, projections, value, gated=gated)
        if len(outputs) == len(projections):
            return outputs
        widths = [projection.width for projection in projections]
        sizes = self.writer.constant(f"sizes{'_'.join(map(str, widths))}", np.array(widths, dtype=np.int64))
        names = [f"{name}.part{index}" for index in range(len(widths))]
        self.writer.node("Split", [outputs[0], sizes], names, axis=-1)
        return names

    def joined(self, name: str, projections: Sequence[Projection], value: str, *, gated: str | None = None) -> list[str]:
        """One concatenated output for all layers if their weights share a format, else one output for each."""
        tensors = [projection.of(self._tensor(f"{projection.part.module}.weight")) for projection in projections]
        weights = choose(tensors, self.precision, self.operators)
        if weights is not None:
            self._count(tensors, weights, self.precision)
            biases = None
            if projections[0].part.bias:
                stored = [projection.of(self.checkpoint.tensor(f"{projection.part.module}.bias")) for projection in projections]
                biases = np.concatenate([as_float32(bias) for bias in stored])
            return [self._emit(name, weights, value, biases, gated)]
        self.norms.rms.pop(value, None)  # several layers read it
        return [
            output
            for projection in projections
            for output in self.joined(f"{name}.{projection.part.module.rpartition('.')[2]}", [projection], value)
        ]

    def head(self, module: str, bias: str | None, value: str) -> str:
        """The output head. It keeps 8 bits if the user asks for 4, because its error acts directly on the logits."""
        tensor = self._tensor(f"{module}.weight")
        precision = "int8" if self.precision == "int4" else self.precision
        weights = choose([tensor], precision, self.operators)
        assert weights is not None
        self._count([tensor], weights, precision)
        return self._emit("head", weights, value, None if bias is None else as_float32(self.checkpoint.tensor(bias)))

    def dtype(self) -> str:
        """The weight format of most linear layers."""
        bits = max(set(self.bits), key=self.bits.count)
        return {32: "float32", 8: "int8", 4: "int4"}[bits]

    def notes(self) -> tuple[str, ...]:
        """Notes for the user about rounded and dequantised weights."""
        notes = []
        if self.rounded:
            what = "to 8 bits with one scale a row" if self.precision == "int8_channel" else "to fewer bits than they are stored in"
            notes.append(f"precision = {self.precision!r} rounded {self.rounded} weight matrices {what}.")
        if self.dequantized:
            notes.append(
                f"{self.dequantized} quantised weight matrices are computed in float32, since ONNX Runtime has no blocks for their groups."
            )
        return tuple(notes)

    def _emit(self, name: str, weights: Weights, value: str, bias: Floats | None, gated: str | None = None) -> str:
        bound = self.norms.bounds.get(value)
        if isinstance(weights, InstalledForm):
            installed = InstalledProduct(self.writer, name, weights, bias, float_prompts=self.float_prompts)
            return installed.emit(value, self.norms, gated=gated, integer=self.integer, bound=bound)
        return emit(self.writer, name, weights, value, bias, integer=self.integer, bound=bound)

    def _tensor(self, name: str) -> Tensor:
        """A stored tensor; the last one is cached, since several layers may be parts of it."""
        if self._last is None or self._last[0] != name:
            self._last = (name, self.checkpoint.tensor(name))
        return self._last[1]

    def _count(self, tensors: Sequence[Tensor], weights: Weights, precision: Precision) -> None:
        """Count rounded and dequantised tensors, and the formats of layers."""
        self.bits.append(weights.bits if isinstance(weights, BlockMatrix | InstalledForm) else 8 if isinstance(weights, RowMatrix) else 32)
        self.block_products |= isinstance(weights, BlockMatrix)
        if isinstance(weights, BlockMatrix | RowMatrix | InstalledForm):
            self.rounded += sum(loses(tensor, precision) for tensor in tensors)
        elif precision != "fp32":
            self.dequantized += sum(isinstance(tensor, QuantizedTensor) for tensor in tensors)
