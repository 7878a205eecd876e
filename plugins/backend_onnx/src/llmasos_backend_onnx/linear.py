"""Linear layers: which form the weights of one take, and the nodes that compute it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.graph import CONTRIB, GraphWriter
from llmasos_backend_onnx.options import Precision
from llmasos_backend_onnx.packing import DEFAULT_BLOCK, BlockMatrix, block_of, pack, quantize, stack
from llmasos_hookspecs import QuantizedTensor, Tensor, as_float32

Floats = npt.NDArray[np.float32]
#: The weights of a linear layer: float32 [rows, columns], or blocks of codes.
Weights = Floats | BlockMatrix


def choose(tensors: Sequence[Tensor], precision: Precision) -> Weights | None:
    """Weights of the layer whose output is those of ``tensors`` side by side; None where they have no form in common.

    ``auto`` keeps quantised tensors in the fewest of 4 or 8 bits that hold all of them, and floats as float32.
    """
    if precision == "fp32" or (precision == "auto" and not any(isinstance(tensor, QuantizedTensor) for tensor in tensors)):
        return np.concatenate([as_float32(tensor) for tensor in tensors])
    if precision == "auto" and not all(isinstance(tensor, QuantizedTensor) for tensor in tensors):
        return None
    wanted = {"int8": 8, "int4": 4}.get(precision)
    quantized = [_quantized(tensor, wanted) for tensor in tensors]
    blocks = [block_of(tensor) for tensor in quantized]
    if any(block is None for block in blocks):
        return np.concatenate([as_float32(tensor) for tensor in tensors])
    block = min(block for block in blocks if block is not None)
    bits = wanted or (4 if all(tensor.bits <= 4 and tensor.minimums is None for tensor in quantized) else 8)
    if bits == 4 and any(tensor.minimums is not None and tensor.shape[1] % block for tensor in quantized):
        bits = 8  # block sums need whole blocks
    return stack([pack(tensor, bits=bits, block=block) for tensor in quantized])


def _quantized(tensor: Tensor, bits: int | None) -> QuantizedTensor:
    if isinstance(tensor, QuantizedTensor) and (bits is None or tensor.bits <= bits):
        return tensor
    assert bits is not None
    return quantize(as_float32(tensor), bits, DEFAULT_BLOCK)


def emit(writer: GraphWriter, name: str, weights: Weights, value: str, bias: Floats | None = None, *, rank: int = 3) -> str:
    """Nodes for ``value @ weights.T + bias``; returns the name of the result, whose last dimension is the weights' rows."""
    if not isinstance(weights, BlockMatrix):
        product = writer.node("MatMul", [value, writer.constant(f"{name}.weight", weights.T)], f"{name}.product")
        if bias is None:
            return product
        return writer.node("Add", [product, writer.constant(f"{name}.bias", bias)], f"{name}.output")
    zero_points = weights.packed_zero_points()
    inputs = [
        value,
        writer.constant(f"{name}.codes", weights.codes),
        writer.constant(f"{name}.scales", weights.scales),
        "" if zero_points is None else writer.constant(f"{name}.zero_points", zero_points),
        "",
        "" if bias is None else writer.constant(f"{name}.bias", bias),
    ]
    while not inputs[-1]:
        inputs.pop()
    product = writer.node(
        "MatMulNBits",
        inputs,
        f"{name}.product",
        domain=CONTRIB,
        K=weights.columns,
        N=weights.rows,
        bits=weights.bits,
        block_size=weights.block,
        accuracy_level=4,  # activations rounded to 8 bits, block by block: 4 times as fast, and a KL of about 1e-3
    )
    if weights.offsets is None:
        return product
    return _add_offsets(writer, name, weights, value, product, rank)


def _add_offsets(writer: GraphWriter, name: str, weights: BlockMatrix, value: str, product: str, rank: int) -> str:
    """The part of the product that the offsets make: the sum of the inputs of each block times the block's offset."""
    assert weights.offsets is not None
    sums = f"{value}.sums{weights.block}"
    if not writer.has(sums):
        dimensions = np.array([*[0] * (rank - 1), -1, weights.block], dtype=np.int64)
        shape = writer.constant(f"blocks{weights.block}.rank{rank}", dimensions)
        blocked = writer.node("Reshape", [value, shape], f"{value}.blocks{weights.block}")
        writer.node("ReduceSum", [blocked, writer.constant("last_axis", np.array([-1], dtype=np.int64))], sums, keepdims=0)
    part = writer.node("MatMul", [sums, writer.constant(f"{name}.offsets", weights.offsets.T)], f"{name}.offset_part")
    return writer.node("Add", [product, part], f"{name}.output")
