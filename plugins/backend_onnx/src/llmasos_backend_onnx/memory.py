"""Predicts the memory of a load from shapes and a few rows of one layer."""

from __future__ import annotations

from typing import Final

import attrs

from llmasos_backend_onnx.cpu import PRODUCT_BYTES, prefill_activations
from llmasos_backend_onnx.heads import head_width, kv_bytes_per_token
from llmasos_backend_onnx.installed import installed_operators
from llmasos_backend_onnx.integer import RowMatrix
from llmasos_backend_onnx.linear import InstalledForm, Weights, choose
from llmasos_backend_onnx.options import Options, Precision
from llmasos_backend_onnx.packing import BlockMatrix, block_of, pack
from llmasos_decoder_kit.onnx_operators import OnnxOperators
from llmasos_encoder_kit.choice import is_encoder
from llmasos_hookspecs import NEUTRAL_FORMATS, Checkpoint, EngineLimits, MemoryEstimate, QuantizedTensor, Tensor

#: Rows that are packed to measure the bytes of a packed row; installed operators may pack as many at once.
_ROWS: Final = 16


def predict(checkpoint: Checkpoint, options: Options, limits: EngineLimits) -> MemoryEstimate | None:
    """Predict the memory of what ``build`` makes, assuming that all layers are like the first; None for exports, which are not
    converted, and for encoders, whose weights stay as they are."""
    if checkpoint.format not in NEUTRAL_FORMATS or is_encoder(checkpoint):
        return None
    config, precision, names = checkpoint.decoder, options.precision, checkpoint.decoder.names
    vectors = sum(4 * shape[0] for shape in config.tensor_shapes().values() if len(shape) == 1)
    matrices = _Matrices(installed_operators(options))
    for place, part in config.linears(0).items():
        rows = part.shape[0] // config.head_dim * head_width(config) if place in ("q", "k", "v") else part.shape[0]
        matrices.add(checkpoint.tensor(f"{part.module}.weight"), rows, precision, config.num_layers)
    table = checkpoint.tensor(f"{names.embedding}.weight")
    # As in the built graph: a head keeps 8 bits if 4 are requested, and a tied head shares the codes of a quantised embedding.
    head = table if config.tie_embeddings else checkpoint.tensor(f"{names.head}.weight")
    matrices.add(head, config.vocab_size, "int8" if precision == "int4" else precision)
    embedded, shared = _embedding(table, precision, matrices.operators)
    apart = 0 if shared and config.tie_embeddings and precision in ("auto", "int8") else embedded
    weights = vectors + apart + matrices.bytes
    activations = prefill_activations(options, config, limits, matrices.operators)
    if activations == "fp32" and matrices.four_bit:
        weights += vectors + apart + matrices.float_bytes
    elif activations == "int16" and matrices.products:
        weights += vectors + embedded + matrices.floats + matrices.products
    return MemoryEstimate(weight_bytes=weights, kv_bytes_per_token=kv_bytes_per_token(config))


@attrs.define
class _Matrices:
    """Bytes of linear layers: in total, with float activations, of the float ones, and of the additional int8 GEMM weights of the
    block-quantised ones.

    ``summed``: (columns, block) of inputs whose blocks are summed by an indicator matrix, which all layers share.
    """

    operators: OnnxOperators | None
    bytes: int = 0
    float_bytes: int = 0
    floats: int = 0
    products: int = 0
    four_bit: bool = False
    summed: set[tuple[int, int]] = attrs.field(factory=set)

    def add(self, tensor: Tensor, rows: int, precision: Precision, times: int = 1) -> None:
        """Count ``times`` layers with ``rows`` rows like those of ``tensor``."""
        part = _first_rows(tensor)
        weights = choose([part], precision, self.operators)
        assert weights is not None
        size = self._count(weights, part, rows, times)
        self.bytes += size
        if isinstance(weights, BlockMatrix | InstalledForm):
            self.products += times * rows * (PRODUCT_BYTES * tensor.shape[1] + 4)
            self.four_bit |= weights.bits == 4
        elif not isinstance(weights, RowMatrix):
            self.floats += size
        if isinstance(weights, InstalledForm) and weights.bits == 4:
            # The graph with float activations has them in blocks.
            blocks = choose([part], precision)
            assert blocks is not None
            size = self._count(blocks, part, rows, times)
        self.float_bytes += size

    def _count(self, weights: Weights, part: Tensor, rows: int, times: int) -> int:
        """Bytes of ``times`` layers of ``rows`` rows, given the weights of the first ones."""
        columns = part.shape[1]
        if isinstance(weights, InstalledForm):
            return times * (weights.packed.data.nbytes * -(-rows // _ROWS))
        if isinstance(weights, RowMatrix):
            return times * rows * (columns + 4)
        if not isinstance(weights, BlockMatrix):
            return times * 4 * rows * columns
        indicator = 0
        if weights.sums and (columns, weights.block) not in self.summed:
            self.summed.add((columns, weights.block))
            indicator = 4 * columns * weights.sums
        return times * (_bytes(weights) * rows // part.shape[0]) + indicator


def _embedding(table: Tensor, precision: Precision, operators: OnnxOperators | None) -> tuple[int, bool]:
    """Bytes of the embedding, and whether it stays quantised."""
    elements = table.shape[0] * table.shape[1]
    if not isinstance(table, QuantizedTensor):
        return elements * table.dtype.itemsize, False
    packed = None if precision == "fp32" or operators is None else operators.linear([_quantized_rows(table)])
    if packed is not None:
        return packed.data.nbytes * -(-table.shape[0] // _ROWS), True
    block = block_of(table)
    if precision == "fp32" or block is None or table.minimums is not None:
        return 4 * elements, False
    part = _quantized_rows(table)
    return _bytes(pack(part, bits=4 if table.bits <= 4 else 8, block=block)) * table.shape[0] // part.shape[0], True


def _first_rows(tensor: Tensor) -> Tensor:
    return tensor.take_rows(slice(_ROWS)) if isinstance(tensor, QuantizedTensor) else tensor[:_ROWS]


def _quantized_rows(table: QuantizedTensor) -> QuantizedTensor:
    return table.take_rows(slice(_ROWS))


def _bytes(matrix: BlockMatrix) -> int:
    zero_points = matrix.packed_zero_points()
    return int(matrix.codes.nbytes + matrix.scales.nbytes + (0 if zero_points is None else zero_points.nbytes))
