"""The types of GGUF's tensors, exactly: uniform blocks as codes, scales and offsets, all others as float32.

Each ``w = scale * (code - zero)`` or ``w = scale * code + minimum``; what a K-quant stores as a 6-bit scale of a float16 scale
becomes the float32 product that its dequantisation multiplies by, so nothing is rounded. Layouts: ggml-common.h and
ggml-quants.c of llama.cpp; ``gguf.quants`` dequantises the same blocks and is what the tests compare with. The codes of the other types
(IQ1 to IQ4, MXFP4, NVFP4) name points of a grid that is not uniform; ``gguf.quants`` makes float32 of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import ml_dtypes
import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from llmasos_checkpoint_kit.mapped import view
from llmasos_hookspecs import QuantizedTensor, Tensor

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: Types that hold plain numbers.
FLOATS: Final[Mapping[GGMLQuantizationType, np.dtype[Any]]] = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}

#: Types of plain numbers that no weight is computed in; they are read as float32.
NUMBERS: Final[Mapping[GGMLQuantizationType, np.dtype[Any]]] = {
    GGMLQuantizationType.F64: np.dtype(np.float64),
    GGMLQuantizationType.I8: np.dtype(np.int8),
    GGMLQuantizationType.I16: np.dtype(np.int16),
    GGMLQuantizationType.I32: np.dtype(np.int32),
    GGMLQuantizationType.I64: np.dtype(np.int64),
}

#: Types whose codes name points of a grid that is not uniform.
GRIDS: Final = tuple(
    GGMLQuantizationType[name]
    for name in ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"]
)

_SUPER = 256


@attrs.frozen
class _Blocks:
    """Codes [blocks, elements a block] with float32 scales and minimums, or zeros, [blocks, groups a block]."""

    codes: Bytes
    scales: Floats
    minimums: Floats | None = None
    zeros: Bytes | None = None


@attrs.frozen
class BlockType:
    """How one block type is read: ``bits`` a code, ``group`` columns that share a scale."""

    bits: int
    group: int
    read: Callable[[Bytes], _Blocks]


def read_tensor(raw: Bytes, kind: GGMLQuantizationType, shape: tuple[int, ...]) -> Tensor:
    """A tensor of any type that is read.

    Matrices of a uniform block type keep their codes; what else is quantised is dequantised to float32, as are stacks of matrices.
    """
    if kind in FLOATS:
        return view(raw, 0, raw.size, FLOATS[kind], shape)
    if kind in NUMBERS:
        return view(raw, 0, raw.size, NUMBERS[kind], shape).astype(np.float32)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    if kind not in BLOCK_TYPES:
        found: Floats = dequantize(raw.reshape(rows, -1), kind).reshape(shape)
        return found
    blocks = unpack_blocks(raw, kind, rows, columns)
    return blocks if len(shape) == 2 else blocks.dequantize().reshape(shape)


def unpack_blocks(raw: Bytes, kind: GGMLQuantizationType, rows: int, columns: int) -> QuantizedTensor:
    """The matrix [rows, columns] that these blocks hold. ``kind`` is one of ``BLOCK_TYPES``."""
    form = BLOCK_TYPES[kind]
    block_bytes = GGML_QUANT_SIZES[kind][1]
    blocks = form.read(raw.reshape(-1, block_bytes))
    return QuantizedTensor(
        codes=blocks.codes.reshape(rows, columns),
        scales=blocks.scales.reshape(rows, -1),
        bits=form.bits,
        group=form.group,
        minimums=None if blocks.minimums is None else blocks.minimums.reshape(rows, -1),
        zeros=None if blocks.zeros is None else blocks.zeros.reshape(rows, -1),
    )


def _half(blocks: Bytes, start: int) -> Floats:
    """The float16 at byte ``start`` of each block, as float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """[..., n] bytes to [..., 2, n]: the low halves, then the high halves."""
    out = np.empty((*packed.shape[:-1], 2, packed.shape[-1]), np.uint8)
    np.bitwise_and(packed, 15, out=out[..., 0, :])
    np.right_shift(packed, 4, out=out[..., 1, :])
    return out


def _fifth_bits(blocks: Bytes, start: int) -> Bytes:
    """32 bits at byte ``start`` of each block, each as 16 or 0: uint8 [blocks, 32]."""
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, start : start + 4]), axis=1, bitorder="little")
    return np.left_shift(bits, 4, out=bits)


def _q8_0(blocks: Bytes) -> _Blocks:
    return _Blocks(np.bitwise_xor(blocks[:, 2:], 0x80), _half(blocks, 0))


def _q4_0(blocks: Bytes) -> _Blocks:
    return _Blocks(_nibbles(blocks[:, 2:]), _half(blocks, 0))


def _q4_1(blocks: Bytes) -> _Blocks:
    return _Blocks(_nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2))


def _q5_0(blocks: Bytes) -> _Blocks:
    codes = _nibbles(blocks[:, 6:]).reshape(-1, 32)
    codes |= _fifth_bits(blocks, 2)
    return _Blocks(codes, _half(blocks, 0))


def _q5_1(blocks: Bytes) -> _Blocks:
    codes = _nibbles(blocks[:, 8:]).reshape(-1, 32)
    codes |= _fifth_bits(blocks, 4)
    return _Blocks(codes, _half(blocks, 0), _half(blocks, 2))


def _shifted(packed: Bytes, width: int, bits: int) -> Bytes:
    """[blocks, n] bytes of 8 / ``bits`` fields each, read ``width`` bytes at a time: [blocks, n / width, 8 / bits, width]."""
    fields: Bytes = packed.reshape(len(packed), -1, 1, width) >> np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    return np.bitwise_and(fields, (1 << bits) - 1, out=fields)


def _q2_k(blocks: Bytes) -> _Blocks:
    packed = blocks[:, :16]
    scales = _half(blocks, 80) * (packed & 15).astype(np.float32)
    minimums = _half(blocks, 82) * (packed >> 4).astype(np.float32)
    return _Blocks(_shifted(blocks[:, 16:80], 32, 2), scales, -minimums)


def _q3_k(blocks: Bytes) -> _Blocks:
    packed = blocks[:, 96:108]
    low = _nibbles(packed[:, :8]).reshape(-1, 16)
    high = _shifted(packed[:, 8:], 4, 2).reshape(-1, 16)
    scales = (low | (high << 4)).astype(np.int8) - np.int8(32)
    codes = _shifted(blocks[:, 32:96], 32, 2).reshape(-1, _SUPER)
    # A code is low bits - 4 where the mask's bit is 0; with the zero at 4, the mask's bit is the code's third.
    codes |= _shifted(blocks[:, :32], 32, 1).reshape(-1, _SUPER) << 2
    return _Blocks(codes, _half(blocks, 108) * scales.astype(np.float32))


def _six_bit_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """The eight 6-bit scales and eight 6-bit minimums in the twelve bytes of a Q4_K or Q5_K block."""
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (rest & 15) | ((first >> 2) & 48)], axis=1)
    minimums = np.concatenate([second & 63, (rest >> 4) | ((second >> 2) & 48)], axis=1)
    return scales.astype(np.float32), minimums.astype(np.float32)


def _q4_k(blocks: Bytes) -> _Blocks:
    scales, minimums = _six_bit_scales(blocks[:, 4:16])
    codes = _shifted(blocks[:, 16:], 32, 4)
    return _Blocks(codes, _half(blocks, 0) * scales, -(_half(blocks, 2) * minimums))


def _q5_k(blocks: Bytes) -> _Blocks:
    scales, minimums = _six_bit_scales(blocks[:, 4:16])
    codes = _shifted(blocks[:, 48:], 32, 4).reshape(-1, _SUPER)
    codes |= _shifted(blocks[:, 16:48], 32, 1).reshape(-1, _SUPER) << 4
    return _Blocks(codes, _half(blocks, 0) * scales, -(_half(blocks, 2) * minimums))


def _q6_k(blocks: Bytes) -> _Blocks:
    codes = _shifted(blocks[:, :128], 64, 4).reshape(-1, _SUPER)
    codes |= _shifted(blocks[:, 128:192], 32, 2).reshape(-1, _SUPER) << 4
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return _Blocks(codes, _half(blocks, 208) * scales)


def _tq2_0(blocks: Bytes) -> _Blocks:
    return _ternary(_shifted(blocks[:, :64], 32, 2), _half(blocks, 64))


def _tq1_0(blocks: Bytes) -> _Blocks:
    # Five digits of base 3 a byte, as a fraction of 256 whose first digit the product with 3 pushes out; four in the last four bytes.
    first, second, last = blocks[:, :32], blocks[:, 32:48], blocks[:, 48:52]
    parts = [_digits(part, count).reshape(len(blocks), -1) for part, count in ((first, 5), (second, 5), (last, 4))]
    return _ternary(np.concatenate(parts, axis=1), _half(blocks, 52))


def _digits(packed: Bytes, count: int) -> Bytes:
    """[blocks, n] bytes as ``count`` digits of base 3 each: [blocks, count, n]."""
    powers = np.array([1, 3, 9, 27, 81][:count], np.uint8).reshape(1, -1, 1)
    return ((np.multiply(packed[:, None], powers).astype(np.uint16) * 3) >> 8).astype(np.uint8)


def _ternary(codes: Bytes, scales: Floats) -> _Blocks:
    """Codes 0, 1 and 2 for -1, 0 and 1."""
    return _Blocks(codes, scales, zeros=np.ones(scales.shape, np.uint8))


#: The quantised types whose codes are kept.
BLOCK_TYPES: Final[Mapping[GGMLQuantizationType, BlockType]] = {
    GGMLQuantizationType.Q8_0: BlockType(8, 32, _q8_0),
    GGMLQuantizationType.Q4_0: BlockType(4, 32, _q4_0),
    GGMLQuantizationType.Q4_1: BlockType(4, 32, _q4_1),
    GGMLQuantizationType.Q5_0: BlockType(5, 32, _q5_0),
    GGMLQuantizationType.Q5_1: BlockType(5, 32, _q5_1),
    GGMLQuantizationType.Q2_K: BlockType(2, 16, _q2_k),
    GGMLQuantizationType.Q3_K: BlockType(3, 16, _q3_k),
    GGMLQuantizationType.Q4_K: BlockType(4, 32, _q4_k),
    GGMLQuantizationType.Q5_K: BlockType(5, 32, _q5_k),
    GGMLQuantizationType.Q6_K: BlockType(6, 16, _q6_k),
    GGMLQuantizationType.TQ1_0: BlockType(2, 256, _tq1_0),
    GGMLQuantizationType.TQ2_0: BlockType(2, 256, _tq2_0),
}

#: All types that are read.
READABLE: Final = (*FLOATS, *NUMBERS, *BLOCK_TYPES, *GRIDS)
