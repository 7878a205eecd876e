"""What a load will hold in memory, told from shapes and a few rows of one layer."""

from __future__ import annotations

from typing import Final

from llmasos_backend_onnx.cpu import prefills_in_float
from llmasos_backend_onnx.linear import choose
from llmasos_backend_onnx.options import Options, Precision
from llmasos_backend_onnx.packing import BlockMatrix, block_of, pack
from llmasos_hookspecs import NEUTRAL_FORMATS, Checkpoint, MemoryEstimate, QuantizedTensor, Tensor

#: Rows that are packed to see what the others will take.
_ROWS: Final = 8


def predict(checkpoint: Checkpoint, options: Options) -> MemoryEstimate | None:
    """What ``build`` makes of the checkpoint, taking every layer for one like the first; None for exports, which stay as they are."""
    if checkpoint.format not in NEUTRAL_FORMATS:
        return None
    config, precision = checkpoint.decoder, options.precision
    weights, four_bit = 0, False
    for name, shape in config.tensor_shapes().items():
        if len(shape) == 1:
            weights += 4 * shape[0]
        elif name.startswith("model.layers.0."):
            size, bits = _packed(checkpoint.tensor(name), precision)
            weights += config.num_layers * size
            four_bit |= bits == 4
    table = checkpoint.tensor("model.embed_tokens.weight")
    head = table if config.tie_embeddings else checkpoint.tensor("lm_head.weight")
    # As the graph is built: a head keeps 8 bits where 4 are asked for, and a tied one shares the codes of an embedding that has some.
    size, bits = _packed(head, "int8" if precision == "int4" else precision)
    embedded, shared = _embedding(table, precision)
    weights += size + (0 if shared and config.tie_embeddings and precision in ("auto", "int8") else embedded)
    four_bit |= bits == 4
    copies = 2 if four_bit and prefills_in_float(options) else 1
    return MemoryEstimate(weight_bytes=copies * weights, kv_bytes_per_token=2 * config.num_layers * config.kv_width * 4)


def _packed(tensor: Tensor, precision: Precision) -> tuple[int, int]:
    """Bytes of a linear layer's matrix, and the bits of its codes; 32 for floats."""
    part = _first_rows(tensor)
    weights = choose([part], precision)
    assert weights is not None
    if not isinstance(weights, BlockMatrix):
        return 4 * tensor.shape[0] * tensor.shape[1], 32
    return _bytes(weights) * tensor.shape[0] // part.shape[0], weights.bits


def _embedding(table: Tensor, precision: Precision) -> tuple[int, bool]:
    """Bytes of the embedding, and whether it is kept in codes."""
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
