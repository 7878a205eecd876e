"""Linear layers: the weight format of each, and the nodes that compute it."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.graph import CONTRIB, GraphWriter
from llmasos_backend_onnx.graph_files import FLOAT_MODEL, INTEGER_MODEL, MODEL
from llmasos_backend_onnx.integer import RowMatrix, emit_product, round_rows
from llmasos_backend_onnx.options import Precision
from llmasos_backend_onnx.packing import DEFAULT_BLOCK, BlockMatrix, block_of, pack, quantize, stack
from llmasos_decoder_kit.onnx_operators import OnnxOperators, PackedLinear
from llmasos_hookspecs import QuantizedTensor, Tensor, as_float32

Floats = npt.NDArray[np.float32]


@attrs.frozen(eq=False)
class InstalledForm:
    """Weights in the form of installed operators, and the tensors that they hold, for graphs that compute them otherwise."""

    packed: PackedLinear
    tensors: Sequence[QuantizedTensor]

    @property
    def bits(self) -> int:
        """4, or 8 for all wider codes, as of a ``BlockMatrix``."""
        return 4 if self.packed.bits <= 4 else 8


#: The weights of a linear layer: float32 [rows, columns], or codes with a scale for each block or each row.
Weights = Floats | BlockMatrix | RowMatrix | InstalledForm


def choose(tensors: Sequence[Tensor], precision: Precision, operators: OnnxOperators | None = None) -> Weights | None:
    """Weights of one layer that computes the outputs of all ``tensors``, concatenated; None if they share no format.

    ``auto`` keeps quantised tensors in 4 bits if all fit and else in 8 bits, and floats as float32. ``operators`` take quantised tensors as
    they are stored, where they take them all.
    """
    if precision == "fp32" or (precision == "auto" and not any(isinstance(tensor, QuantizedTensor) for tensor in tensors)):
        return floats_of(tensors)
    if precision == "int8_channel":
        return round_rows(floats_of(tensors), bits=8)
    if precision == "auto" and not all(isinstance(tensor, QuantizedTensor) for tensor in tensors):
        return None
    wanted = {"int8": 8, "int4": 4}.get(precision)
    quantized = [_quantized(tensor, wanted) for tensor in tensors]
    if operators is not None:
        packed = operators.linear(quantized)
        if packed is not None:
            return InstalledForm(packed, quantized)
        if len(quantized) > 1 and all(operators.linear([tensor]) is not None for tensor in quantized):
            return None
    return blocks_of(quantized, wanted)


def blocks_of(quantized: Sequence[QuantizedTensor], wanted: int | None) -> Weights:
    """The weights in blocks of ONNX Runtime's own operators, or as floats where their groups are no such blocks."""
    blocks = [block_of(tensor) for tensor in quantized]
    if any(block is None for block in blocks):
        return floats_of(quantized)
    block = min(block for block in blocks if block is not None)
    bits = wanted or (4 if all(tensor.bits <= 4 for tensor in quantized) else 8)
    if bits == 4 and not _sums_agree(quantized, block):
        bits = 8
    return stack([pack(tensor, bits=bits, block=block) for tensor in quantized])


def floats_of(tensors: Sequence[Tensor]) -> Floats:
    return np.concatenate([as_float32(tensor) for tensor in tensors])


def loses(tensor: Tensor, precision: Precision) -> bool:
    """Whether ``precision`` rounds the tensor to fewer bits than it is stored in, or to one scale a row."""
    if precision == "int8_channel":
        return True
    bits = {"int8": 8, "int4": 4}.get(precision, 32)
    return bits < (tensor.bits if isinstance(tensor, QuantizedTensor) else 32)


def _sums_agree(tensors: Sequence[QuantizedTensor], block: int) -> bool:
    """Whether the tensors can be stacked in 4 bits: float minimums need block sums (``BlockMatrix.sums``), for all rows of a matrix or
    none."""
    with_minimums = [tensor.minimums is not None for tensor in tensors]
    return not any(with_minimums) or (all(with_minimums) and tensors[0].shape[1] % block == 0)


def _quantized(tensor: Tensor, bits: int | None) -> QuantizedTensor:
    if isinstance(tensor, QuantizedTensor) and (bits is None or tensor.bits <= bits):
        return tensor
    assert bits is not None
    return quantize(as_float32(tensor), bits, DEFAULT_BLOCK)


def emit(
    writer: GraphWriter,
    name: str,
    weights: Floats | BlockMatrix | RowMatrix,
    value: str,
    bias: Floats | None = None,
    *,
    integer: bool = False,
    bound: float | None = None,
) -> str:
    """Emit nodes for ``value @ weights.T + bias``; return the name of the result, whose last dimension is the weights' rows.

    Block-quantised weights get separate nodes for ``MODEL``, for ``FLOAT_MODEL``, and if ``integer`` for ``INTEGER_MODEL``. ``bound``:
    upper bound of the value's magnitude, if known.
    """
    if isinstance(weights, RowMatrix):
        return emit_product(writer, name, weights, value, bias, only=MODEL, bound=bound)
    if isinstance(weights, BlockMatrix):
        if integer:
            emit_product(writer, name, round_rows(weights.dequantize(), bits=16), value, bias, only=INTEGER_MODEL, bound=bound)
        return emit_blocks(writer, name, weights, value, bias)
    product = writer.node("MatMul", [value, writer.constant(f"{name}.weight", weights.T)], f"{name}.product")
    if bias is None:
        return product
    return writer.node("Add", [product, writer.constant(f"{name}.bias", bias)], f"{name}.output")


def emit_blocks(
    writer: GraphWriter,
    name: str,
    weights: BlockMatrix,
    value: str,
    bias: Floats | None,
    graphs: Sequence[str] = (MODEL, FLOAT_MODEL),
) -> str:
    zero_points = weights.packed_zero_points()
    inputs = [
        _append_block_sums(writer, value, weights) if weights.sums else value,
        writer.constant(f"{name}.codes", weights.codes),
        writer.constant(f"{name}.scales", weights.scales),
        "" if zero_points is None else writer.constant(f"{name}.zero_points", zero_points),
        "",
        "" if bias is None else writer.constant(f"{name}.bias", bias),
    ]
    # Accuracy level 4 rounds activations to int8 by block: 4 times as fast for a few rows, at a KL of about 1e-3. Level 1 uses float
    # activations.
    levels = {MODEL: 4, FLOAT_MODEL: 1 if weights.bits == 4 else 4}
    for graph in graphs:
        writer.node(
            "MatMulNBits",
            inputs,
            f"{name}.product",
            domain=CONTRIB,
            only=graph,
            K=weights.columns + 2 * weights.sums,
            N=weights.rows,
            bits=weights.bits,
            block_size=weights.block,
            accuracy_level=levels[graph],
        )
    return f"{name}.product"


def _append_block_sums(writer: GraphWriter, value: str, weights: BlockMatrix) -> str:
    """The value with the sums of its blocks appended twice (see ``BlockMatrix``)."""
    name = f"{value}.with_sums{weights.block}"
    if not writer.has(name):
        indicator = np.zeros((weights.columns, weights.sums), dtype=np.float32)
        indicator[np.arange(weights.columns), np.arange(weights.columns) // weights.block] = 1
        sums = writer.node(
            "MatMul",
            [value, writer.constant(f"blocks{weights.columns}x{weights.block}", indicator)],
            f"{value}.sums{weights.block}",
        )
        writer.node("Concat", [value, sums, sums], name, axis=-1)
    return name
