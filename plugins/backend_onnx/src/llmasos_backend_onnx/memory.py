"""Predicts the memory of a load from shapes and a few rows of one layer."""

from __future__ import annotations

from typing import Final

import attrs

from llmasos_backend_onnx.cpu import PRODUCT_BYTES, prefill_activations
from llmasos_backend_onnx.heads import head_width, kv_bytes_per_token
from llmasos_backend_onnx.integer import RowMatrix
from llmasos_backend_onnx.linear import choose
from llmasos_backend_onnx.options import Options, Precision
from llmasos_backend_onnx.packing import BlockMatrix, block_of, pack
from llmasos_encoder_kit.choice import is_encoder
from llmasos_hookspecs import NEUTRAL_FORMATS, Checkpoint, EngineLimits, MemoryEstimate, QuantizedTensor, Tensor

#: Rows that are packed to measure the bytes of a packed row.
_ROWS: Final = 8


def predict(checkpoint: Checkpoint, options: Options, limits: EngineLimits) -> MemoryEstimate | None:
    """Predict the memory of what ``build`` makes, assuming that all layers are like the first; None for exports, which are not
    converted, and for encoders, whose weights stay as they are."""
    if checkpoint.format not in NEUTRAL_FORMATS or is_encoder(checkpoint):
        return None
    config, precision, names = checkpoint.decoder, options.precision, checkpoint.decoder.names
    vectors = sum(4 * shape[0] for shape in config.tensor_shapes().values() if len(shape) == 1)
    matrices = _Matrices()
    for place, part in config.linears(0).items():
        rows = part.shape[0] // config.head_dim * head_width(config) if place in ("q", "k", "v") else part.shape[0]
        matrices.add(checkpoint.tensor(f"{part.module}.weight"), rows, precision, config.num_layers)
    table = checkpoint.tensor(f"{names.embedding}.weight")
    # As in the built graph: a head keeps 8 bits if 4 are requested, and a tied head shares the codes of a quantised embedding.
    head = table if config.tie_embeddings else checkpoint.tensor(f"{names.head}.weight")
    matrices.add(head, config.vocab_size, "int8" if precision == "int4" else precision)
    embedded, shared = _embedding(table, precision)
    apart = 0 if shared and config.tie_embeddings and precision in ("auto", "int8") else embedded
    weights = vectors + apart + matrices.bytes
    activations = prefill_activations(options, config, limits)
    if activations == "fp32" and matrices.four_bit:
        weights *= 2
    elif activations == "int16" and matrices.products:
        weights += vectors + embedded + matrices.floats + matrices.products
    return MemoryEstimate(weight_bytes=weights, kv_bytes_per_token=kv_bytes_per_token(config))


@attrs.define
class _Matrices:
    """Bytes of linear layers: in total, of the float ones, and of the additional int8 GEMM weights of the block-quantised ones.

    ``summed``: (columns, block) of inputs whose blocks are summed by an indicator matrix, which all layers share.
    """

    bytes: int = 0
    floats: int = 0
    products: int = 0
    four_bit: bool = False
    summed: set[tuple[int, int]] = attrs.field(factory=set)

    def add(self, tensor: Tensor, rows: int, precision: Precision, times: int = 1) -> None:
        """Count ``times`` layers with ``rows`` rows like those of ``tensor``."""
        part = _first_rows(tensor)
        weights = choose([part], precision)
        assert weights is not None
        columns = tensor.shape[1]
        if isinstance(weights, BlockMatrix):
            self.bytes += times * (_bytes(weights) * rows // part.shape[0])
            self.products += times * rows * (PRODUCT_BYTES * columns + 4)
            self.four_bit |= weights.bits == 4
            if weights.sums and (columns, weights.block) not in self.summed:
                self.summed.add((columns, weights.block))
                self.bytes += 4 * columns * weights.sums
        elif isinstance(weights, RowMatrix):
            self.bytes += times * rows * (columns + 4)
        else:
            self.bytes += times * 4 * rows * columns
            self.floats += times * 4 * rows * columns


def _embedding(table: Tensor, precision: Precision) -> tuple[int, bool]:
    """Bytes of the embedding, and whether it stays quantised."""
    elements = table.shape[0] * table.shape[1]
    if not isinstance(table, QuantizedTensor):
        return elements * table.dtype.itemsize, False
    block = block_of(table)
    if precision == "fp32" or block is None or table.minimums is not None:
        return 4 * elements, False
    part = _first_rows(table)
    assert isinstance(part, QuantizedTensor)
    return _bytes(pack(part, bits=4 if table.bits <= 4 else 8, block=block)) * table.shape[0] // part.shape[0], True


def _first_rows(tensor: Tensor) -> Tensor:
    return tensor.take_rows(slice(_ROWS)) if isinstance(tensor, QuantizedTensor) else tensor[:_ROWS]


def _bytes(matrix: BlockMatrix) -> int:
    zero_points = matrix.packed_zero_points()
    return int(matrix.codes.nbytes + matrix.scales.nbytes + (0 if zero_points is None else zero_points.nbytes))
