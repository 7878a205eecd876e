"""Emits a linear layer that installed operators compute."""

from __future__ import annotations

import attrs

from llmasos_backend_onnx.graph import GraphWriter
from llmasos_backend_onnx.graph_files import FLOAT_MODEL, INTEGER_MODEL, MODEL
from llmasos_backend_onnx.integer import emit_product, round_rows
from llmasos_backend_onnx.linear import Floats, InstalledForm, blocks_of, emit_blocks, floats_of
from llmasos_backend_onnx.norms import Norms
from llmasos_backend_onnx.packing import BlockMatrix


@attrs.frozen(eq=False)
class InstalledProduct:
    """A layer called ``name`` in the form of installed operators. ``float_prompts``: whether ``FLOAT_MODEL`` is written."""

    writer: GraphWriter
    name: str
    weights: InstalledForm
    bias: Floats | None
    float_prompts: bool = attrs.field(kw_only=True)

    def emit(self, value: str, norms: Norms, *, gated: str | None, integer: bool, bound: float | None) -> str:
        """Nodes for ``value @ weights.T + bias`` in all graphs; returns the name of the result.

        In the graphs that the operators compute, a norm whose result is ``value`` becomes part of the layer, and so does the product
        ``gated`` of its two halves, where they can do that.
        """
        if integer:
            rows = round_rows(floats_of(self.weights.tensors), bits=16)
            emit_product(self.writer, self.name, rows, value, self.bias, only=INTEGER_MODEL, bound=bound)
        graphs = [MODEL, FLOAT_MODEL]
        if self.float_prompts and self.weights.bits == 4:
            blocks = blocks_of(self.weights.tensors, 4)
            if isinstance(blocks, BlockMatrix):
                emit_blocks(self.writer, self.name, blocks, value, self.bias, graphs=(FLOAT_MODEL,))
                graphs.remove(FLOAT_MODEL)
        for graph in graphs:
            self._emit(graph, value, norms, gated)
        return f"{self.name}.product"

    def _emit(self, graph: str, value: str, norms: Norms, gated: str | None) -> None:
        writer, packed = self.writer, self.weights.packed
        output = f"{self.name}.product"
        bias = "" if self.bias is None else writer.constant(f"{self.name}.bias", self.bias)
        inputs, outputs, attributes = [value, writer.constant(f"{self.name}.packed", packed.data), bias], [output], dict(packed.attributes)
        norm = norms.rms.get(value) if packed.fuses else None
        if norm is not None:
            inputs = [norm.value, *inputs[1:], norm.gamma, norm.addend or ""]
            outputs += [norm.total] if norm.total else []
            attributes["epsilon"] = float(norms.config.norm_eps)
            writer.leave_out(value, graph)
        if gated is not None and packed.gates:
            outputs[0] = gated
            attributes["gated"] = 1
            writer.leave_out(gated, graph)
        writer.node(packed.product, inputs, outputs, domain=packed.domain, only=graph, **attributes)
