"""Quantised matrices in the layout of ONNX Runtime's MatMulNBits and GatherBlockQuantized operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import QuantizedTensor

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: Columns that share a scale if this plugin quantises a matrix itself.
DEFAULT_BLOCK: Final = 32
#: Block sizes that the operators support.
BLOCKS: Final = (16, 32, 64, 128, 256)


@attrs.frozen(eq=False, kw_only=True)
class BlockMatrix:
    """A matrix whose weights are ``scale * (code - zero_point)``, with one scale and zero point for every block of a row.

    If ``sums`` is set, twice that many columns follow those of the matrix. They multiply the block sums of the input, appended twice, and
    so add a float offset to all weights of a block, which an integer zero point cannot represent: the first set of codes approximates the
    offset, the second its rounding error. See ``split_minimums``.

    Attributes:
        columns: the input dimension; the last block is padded where ``block`` does not divide it.
        sums: 0, or the number of the input's blocks, rounded up to a multiple of ``block``.
        bits: 4 or 8.
        block: columns that share a scale, one of ``BLOCKS``.
        codes: uint8 [rows, blocks, block * bits / 8]; of two 4-bit codes in a byte the first is in the low half.
        scales: float32 [rows, blocks].
        zero_points: uint8 [rows, blocks], unpacked; None where all are ``2 ** (bits - 1)``.
    """

    columns: int
    bits: int
    block: int
    codes: Bytes
    scales: Floats
    zero_points: Bytes | None = None
    sums: int = 0

    @property
    def rows(self) -> int:
        return self.codes.shape[0]

    def packed_zero_points(self) -> Bytes | None:
        """The zero points as the operators store them: [rows, ceil(blocks * bits / 8)]."""
        if self.zero_points is None or self.bits == 8:
            return self.zero_points
        return _pack_nibbles(_pad(self.zero_points, self.zero_points.shape[1] % 2, 0))

    def dequantize(self) -> Floats:
        """The dequantised matrix, float32 [rows, columns]."""
        codes = self.codes
        if self.bits == 4:
            codes = np.stack((codes & 15, codes >> 4), axis=-1).reshape(*codes.shape[:2], self.block)
        zeros = np.float32(1 << (self.bits - 1)) if self.zero_points is None else self.zero_points[..., None].astype(np.float32)
        weights = (self.scales[..., None] * (codes.astype(np.float32) - zeros)).reshape(self.rows, -1)
        matrix = weights[:, : self.columns]
        if self.sums:
            addends = weights[:, self.columns :].reshape(self.rows, 2, self.sums).sum(axis=1)
            matrix = matrix + np.repeat(addends, self.block, axis=1)[:, : self.columns]
        return matrix


def block_of(tensor: QuantizedTensor) -> int | None:
    """The largest supported block size that divides the tensor's group; None if there is none so small."""
    columns = tensor.shape[1]
    if tensor.group >= columns:
        return DEFAULT_BLOCK
    fitting = [block for block in BLOCKS if tensor.group % block == 0]
    return fitting[-1] if fitting else None


def pack(tensor: QuantizedTensor, *, bits: int, block: int) -> BlockMatrix:
    """Pack the tensor, unchanged in value, in ``bits`` bits, at least as many as it has.

    ``block`` must divide the tensor's group. Float minimums become zero points: by ``absorb_minimums`` in 8 bits, by
    ``split_minimums`` in 4, for which whole blocks are needed.
    """
    columns = tensor.shape[1]
    blocks = -(-columns // block)
    repeat = max(1, tensor.group // block)

    def spread(groups: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        repeated = np.repeat(groups, blocks if groups.shape[1] == 1 else repeat, axis=1)
        return np.ascontiguousarray(repeated[:, :blocks])

    scales: Floats = spread(tensor.scales).astype(np.float32)
    codes = tensor.codes
    middle = 1 << (bits - 1)
    zero_points: Bytes | None = None
    sums = 0
    if tensor.minimums is not None:
        convert = absorb_minimums if bits == 8 else split_minimums
        sums = 0 if bits == 8 else -(-blocks // block) * block
        minimums = spread(tensor.minimums).astype(np.float32)
        codes, scales, zero_points = convert(_blocked(codes, block, 0), scales, minimums, tensor.bits)
    elif tensor.zeros is not None:
        zero_points = spread(tensor.zeros).astype(np.uint8)
    else:
        codes = codes + np.uint8(middle - (1 << (tensor.bits - 1)))
    if codes.ndim == 2:
        codes = _blocked(codes, block, middle)
    packed = codes if bits == 8 else _pack_nibbles(codes)
    return BlockMatrix(columns=columns, bits=bits, block=block, codes=packed, scales=scales, zero_points=zero_points, sums=sums)


def split_minimums(codes: Bytes, scales: Floats, minimums: Floats, bits: int) -> tuple[Bytes, Floats, Bytes]:
    """Express ``scale * code + minimum`` as ``scale * (code - zero) + rest`` with 4-bit zero points, and the rests as additional columns.

    The rest of a block adds ``rest * sum(x)`` to the result, with the sum of the block's inputs: the rests are the weights of one
    additional input a block. They are 4-bit codes like all weights, twice; the second codes hold the rounding error of the first. The
    remaining error is below 1/450 of the distance between two codes: 1/2 by the zero point, 1/15 of that by each rounding.

    Args:
        codes: [rows, blocks, block], each below ``2 ** bits``, at most 16.
        scales, minimums: [rows, blocks].

    Returns:
        codes [rows, blocks + more, block], scales and zeros [rows, blocks + more], where the further blocks hold the rests.
    """
    blocks, block = codes.shape[1:]
    flat = scales == 0
    # A block whose only value is the minimum: code 0 with zero point 1 and scale -minimum.
    scales = np.where(flat, -minimums, scales)
    codes = np.where(flat[..., None], np.uint8(0), codes)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(flat, np.float32(1), -minimums / scales)
    zeros = np.clip(np.rint(exact), 0, 15)
    rests = np.where(flat, np.float32(0), minimums + scales * zeros).astype(np.float32)
    parts = [(codes, scales, zeros.astype(np.uint8))]
    for _ in range(2):
        rounded = quantize(_pad(rests, -blocks % block, 0), 4, block)
        assert rounded.zeros is not None
        rests = rests - rounded.dequantize()[:, :blocks]
        parts.append((_blocked(rounded.codes, block, 0), rounded.scales, rounded.zeros))
    all_codes, all_scales, all_zeros = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return all_codes, all_scales.astype(np.float32), all_zeros


def absorb_minimums(codes: Bytes, scales: Floats, minimums: Floats, bits: int) -> tuple[Bytes, Floats, Bytes]:
    """Express ``scale * code + minimum`` as ``scale' * (code' - zero')`` with 8-bit codes and integer zero points.

    Narrow codes leave room in 8 bits: with ``code' = k * code + c`` and ``scale' = scale / k`` any integer k is exact except for the
        rounding
    of ``minimum / scale'``, which depends on k. Each block takes the k with the smallest rounding error; for 4-bit codes it is about 0.2 %
    of the distance between two codes.

    Args:
        codes: [rows, blocks, block], each below ``2 ** bits``.
        scales, minimums: [rows, blocks].
    """
    top = (1 << bits) - 1
    flat = scales == 0
    safe = np.where(flat, np.float32(1), scales)
    exact = -minimums.astype(np.float64) / safe
    best_error = np.full(scales.shape, np.inf)
    best_factor = np.zeros(scales.shape, dtype=np.int32)
    for factor in range(1, 255 // top + 1):
        zero = np.rint(exact * factor)
        fits = np.maximum(zero, factor * top) - np.minimum(zero, 0) <= 255
        error = np.where(fits, np.abs(exact * factor - zero) / factor, np.inf)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_factor = np.where(better, factor, best_factor)
    # If even k = 1 does not fit, the codes span less than the minimum's distance from zero: the block is quantised again.
    factors = np.maximum(best_factor, 1)
    zero = np.rint(exact * factors)
    shift = np.maximum(-zero, 0)
    new_codes = codes.astype(np.int32) * factors[..., None] + shift[..., None].astype(np.int64)
    new_scales = (safe.astype(np.float64) / factors).astype(np.float32)
    new_zeros = zero + shift
    lost = flat | (best_factor == 0)
    if lost.any():
        rows = scales[lost][:, None] * codes[lost] + minimums[lost][:, None]
        extreme = np.abs(rows).max(axis=1)
        step = np.where(extreme == 0, 1, extreme / 127).astype(np.float32)
        new_codes[lost] = np.rint(rows / step[:, None]).astype(np.int64) + 128
        new_scales[lost] = step
        new_zeros[lost] = 128
    return new_codes.astype(np.uint8), new_scales, new_zeros.astype(np.uint8)


def stack(parts: Sequence[BlockMatrix]) -> BlockMatrix:
    """Stack matrices of the same columns, sums, bits and block along their rows."""
    first = parts[0]
    if len(parts) == 1:
        return first
    zero_points: Bytes | None = None
    if any(part.zero_points is not None for part in parts):
        default = np.uint8(1 << (first.bits - 1))
        zero_points = np.concatenate(
            [np.full(part.scales.shape, default, dtype=np.uint8) if part.zero_points is None else part.zero_points for part in parts]
        )
    return attrs.evolve(
        first,
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zero_points=zero_points,
    )


def quantize(weights: Floats, bits: int, block: int = DEFAULT_BLOCK) -> QuantizedTensor:
    """Round a float matrix to the nearest codes: symmetric with 8 bits, over the range of each block's weights with fewer bits."""
    rows, columns = weights.shape
    blocked = _pad(weights, -columns % block, 0).reshape(rows, -1, block)
    top = (1 << bits) - 1
    if bits == 8:
        scales = np.abs(blocked).max(axis=2) / np.float32(127)
        zeros = None
        middle = np.float32(128)
    else:
        low, high = np.minimum(blocked.min(axis=2), 0), np.maximum(blocked.max(axis=2), 0)
        scales = (high - low) / np.float32(top)
    scales = np.where(scales == 0, np.float32(1), scales).astype(np.float32)
    if bits == 8:
        codes = np.rint(blocked / scales[..., None]) + middle
    else:
        zeros = np.clip(np.rint(-low / scales), 0, top).astype(np.uint8)
        codes = np.rint(blocked / scales[..., None]) + zeros[..., None]
    flat = np.clip(codes, 0, top).astype(np.uint8).reshape(rows, -1)[:, :columns]
    return QuantizedTensor(codes=np.ascontiguousarray(flat), scales=scales, bits=bits, group=block, zeros=zeros)


def _blocked(codes: Bytes, block: int, filler: int) -> Bytes:
    return _pad(codes, -codes.shape[1] % block, filler).reshape(codes.shape[0], -1, block)


def _pad(array: npt.NDArray[np.generic], columns: int, filler: int) -> npt.NDArray[np.generic]:
    return np.pad(array, ((0, 0), (0, columns)), constant_values=filler) if columns else array


def _pack_nibbles(codes: Bytes) -> Bytes:
    return np.ascontiguousarray(codes[..., 0::2] | (codes[..., 1::2] << 4))
