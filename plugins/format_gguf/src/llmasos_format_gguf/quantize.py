"""Matrices as the blocks of a GGUF type: stored codes as they are where the type holds them, else rounded anew.

Layouts: ggml-common.h and ggml-quants.c of llama.cpp. The types of 32 elements a block round as ``gguf.quants`` does, to the bit. For the
K types there is no reference in Python; scales are fitted by least squares over a range of candidates, weighted by each element's square
(Q6_K) or its size (Q4_K), which is what llama.cpp does without an importance matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import ml_dtypes
import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from llmasos_hookspecs import QuantizedTensor, Tensor, as_float32

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: Elements that are rounded at a time: the search over candidates holds some ten arrays of them.
_AT_ONCE: Final = 1 << 20

_LARGEST_HALF: Final = 65504.0


@attrs.frozen
class _Uniform:
    """A type of 32 elements a block: ``pack(scales, minimums or None, codes)`` makes its blocks.

    ``low``: the smallest code of a symmetric type, whose codes count from 0 at ``-low``; None where a minimum is stored.
    """

    bits: int
    low: int | None
    fit: Callable[[Floats], tuple[Floats, Floats | None, Bytes]]
    pack: Callable[[Floats, Floats | None, Bytes], Bytes]


def encode(tensor: Tensor, kind: GGMLQuantizationType) -> Bytes:
    """The bytes of a tensor in a type: uint8 [rows, bytes a row] for a matrix, the last axis being packed in any shape.

    Raises:
        ValueError: the type cannot hold the tensor: a number is not finite, or too large for float16.
    """
    kept = _kept(tensor, kind) if isinstance(tensor, QuantizedTensor) else None
    if kept is not None:
        return kept
    if kind not in _UNIFORM and kind not in _SUPER:
        return _floats(tensor, kind)
    values = np.ascontiguousarray(as_float32(tensor))
    _check_finite(values)
    block, size = GGML_QUANT_SIZES[kind]
    blocks = values.reshape(-1, block)
    out = np.empty((len(blocks), size), np.uint8)
    step = max(1, _AT_ONCE // block)
    for start in range(0, len(blocks), step):
        part = blocks[start : start + step]
        if kind in _SUPER:
            out[start : start + step] = _SUPER[kind](part)
        else:
            form = _UNIFORM[kind]
            out[start : start + step] = form.pack(*form.fit(part))
    return out.reshape(*values.shape[:-1], -1)


def _floats(tensor: Tensor, kind: GGMLQuantizationType) -> Bytes:
    dtype = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[kind.name]
    array = tensor.dequantize() if isinstance(tensor, QuantizedTensor) else np.asarray(tensor)
    _check_finite(array)
    if kind == GGMLQuantizationType.F16 and array.dtype != np.float16 and np.abs(array).max(initial=0) > _LARGEST_HALF:
        raise ValueError("it has numbers above 65504, the largest of float16; write bf16 or f32")
    return np.ascontiguousarray(array.astype(dtype)).view(np.uint8).reshape(*array.shape[:-1], -1)


def _check_finite(array: npt.NDArray[Any]) -> None:
    if not np.isfinite(array.astype(np.float32) if array.dtype.name == "bfloat16" else array).all():
        raise ValueError("it has numbers that are not finite; get the model again")


def _kept(tensor: QuantizedTensor, kind: GGMLQuantizationType) -> Bytes | None:
    """The stored codes with their scales rounded to float16, where the type holds them; None where it does not."""
    form = _UNIFORM.get(kind)
    rows, columns = tensor.shape
    if form is None or columns % 32 or (tensor.group % 32 and tensor.group != columns):
        return None
    repeats = np.minimum(tensor.group, columns - np.arange(tensor.scales.shape[1]) * tensor.group) // 32
    scales = np.repeat(tensor.scales, repeats, axis=1).reshape(-1, 1)
    minimums = None if tensor.minimums is None else np.repeat(tensor.minimums, repeats, axis=1).reshape(-1, 1)
    codes = tensor.codes.reshape(-1, 32)
    zero = np.full_like(scales, 2 ** (tensor.bits - 1))
    if tensor.zeros is not None:
        zero = np.repeat(tensor.zeros, repeats, axis=1).reshape(-1, 1).astype(np.float32)
    if form.low is None:
        minimums = -scales * zero if minimums is None else minimums
        if tensor.bits > form.bits:
            return None
    else:
        if minimums is not None:
            return None
        moved = codes.astype(np.int16) - zero.astype(np.int16) - form.low
        if moved.min() < 0 or moved.max() >= 2**form.bits:
            return None
        codes = moved.astype(np.uint8)
    for part in (scales, minimums):
        # A scale that float16 rounds to nothing would turn codes that say something into zeros.
        if part is not None and (not np.isfinite(part).all() or np.abs(part).max() > _LARGEST_HALF or _lost(part)):
            return None
    return form.pack(scales, minimums, codes).reshape(rows, -1)


def _lost(values: Floats) -> bool:
    """Whether float16 holds any of these numbers with fewer digits than its own."""
    return bool(((values != 0) & (np.abs(values) < 2.0**-14) & (values.astype(np.float16) != values)).any())


def _inverse(scales: Floats) -> Floats:
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(scales == 0, np.float32(0), np.float32(1) / scales)


def _away(values: Floats) -> Floats:
    """Rounded to the nearest whole number, halves away from zero."""
    whole = np.abs(values)
    down = np.floor(whole)
    return np.asarray(np.sign(values) * (down + np.floor(2 * (whole - down))), np.float32)


def _fit_q8_0(blocks: Floats) -> tuple[Floats, None, Bytes]:
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(over="ignore", invalid="ignore"):
        codes = _away(blocks * _inverse(scales))
    return scales, None, (np.clip(np.nan_to_num(codes), -127, 127).astype(np.int16) + 128).astype(np.uint8)


def _fit_symmetric(half: int) -> Callable[[Floats], tuple[Floats, None, Bytes]]:
    """Codes of which the extreme one stands for the element of the largest size, whatever its sign."""

    def fit(blocks: Floats) -> tuple[Floats, None, Bytes]:
        largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
        scales = largest / np.float32(-half)
        inverse = _inverse(scales).astype(np.float64)
        codes = np.trunc(blocks.astype(np.float64) * inverse + np.float64(half + 0.5))
        return scales, None, np.clip(codes, 0, 2 * half - 1).astype(np.uint8)

    return fit


def _fit_with_minimum(top: int) -> Callable[[Floats], tuple[Floats, Floats, Bytes]]:
    def fit(blocks: Floats) -> tuple[Floats, Floats, Bytes]:
        low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
        scales = (high - low) / np.float32(top)
        codes = np.trunc((blocks - low) * _inverse(scales) + np.float32(0.5))
        return scales, low, np.clip(codes, 0, top).astype(np.uint8)

    return fit


def _half(values: Floats) -> Bytes:
    """float16 of [blocks, n], as bytes [blocks, 2 n]."""
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ValueError("its scales are too large for float16; write bf16 or f32")
    return np.ascontiguousarray(halves).view(np.uint8).reshape(len(values), -1)


def _pack_q8(scales: Floats, minimums: Floats | None, codes: Bytes) -> Bytes:
    return np.concatenate([_half(scales), np.bitwise_xor(codes, 0x80)], axis=1)


def _pack_nibbles(scales: Floats, minimums: Floats | None, codes: Bytes) -> Bytes:
    parts = [_half(scales), *([] if minimums is None else [_half(minimums)])]
    return np.concatenate([*parts, codes[:, :16] | (codes[:, 16:] << 4)], axis=1)


def _pack_fifths(scales: Floats, minimums: Floats | None, codes: Bytes) -> Bytes:
    parts = [_half(scales), *([] if minimums is None else [_half(minimums)])]
    high = np.packbits(codes >> 4, axis=1, bitorder="little")
    low = codes & 15
    return np.concatenate([*parts, high, low[:, :16] | (low[:, 16:] << 4)], axis=1)


_UNIFORM: Final[Mapping[GGMLQuantizationType, _Uniform]] = {
    GGMLQuantizationType.Q8_0: _Uniform(8, -128, _fit_q8_0, _pack_q8),
    GGMLQuantizationType.Q4_0: _Uniform(4, -8, _fit_symmetric(8), _pack_nibbles),
    GGMLQuantizationType.Q4_1: _Uniform(4, None, _fit_with_minimum(15), _pack_nibbles),
    GGMLQuantizationType.Q5_0: _Uniform(5, -16, _fit_symmetric(16), _pack_fifths),
    GGMLQuantizationType.Q5_1: _Uniform(5, None, _fit_with_minimum(31), _pack_fifths),
}


def _q6_k(blocks: Floats) -> Bytes:
    """16 groups of 16 elements: 6-bit codes, an int8 scale a group, one float16 scale of the scales."""
    groups = blocks.reshape(-1, 16, 16)
    scales = _symmetric_scales(groups, 32)
    extreme = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)
    super_scale = (extreme / np.float32(-128)).astype(np.float16).astype(np.float32)
    small = np.clip(_away(scales * _inverse(super_scale)), -128, 127)
    codes = np.clip(_away(groups * _inverse(super_scale * small)[..., None]), -32, 31) + 32
    flat = codes.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = flat & 15
    # In each half of 128: the low nibbles of rows 0 and 2 share bytes, as do those of 1 and 3; four upper pairs of bits share one.
    nibbles = np.concatenate([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], axis=2)
    upper = (flat >> 4) << np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    pairs = np.bitwise_or.reduce(upper, axis=2)
    stored = small.astype(np.int8).view(np.uint8)
    return np.concatenate([nibbles.reshape(len(blocks), -1), pairs.reshape(len(blocks), -1), stored, _half(super_scale)], axis=1)


def _symmetric_scales(groups: Floats, half: int) -> Floats:
    """The scale of each group that leaves the least error weighted by the elements' squares: float32 [blocks, groups]."""
    largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    weights = groups * groups
    best_gain = np.full(largest.shape, -1, np.float32)
    best = np.zeros_like(largest)
    for step in range(-9, 10):
        inverse = _inverse(largest / np.float32(-(half + 0.1 * step)))
        codes = np.clip(np.rint(groups * inverse[..., None]), -half, half - 1)
        along, squares = (weights * groups * codes).sum(-1), (weights * codes * codes).sum(-1)
        gain = along * along * _inverse(squares)
        better = gain > best_gain
        best_gain, best = np.where(better, gain, best_gain), np.where(better, along * _inverse(squares), best)
    return best


def _q4_k(blocks: Floats) -> Bytes:
    """8 groups of 32 elements: 4-bit codes, a 6-bit scale and a 6-bit minimum a group, float16 scales of both."""
    groups = blocks.reshape(-1, 8, 32)
    scales, offsets = _scales_and_offsets(groups, 15)
    super_scale = (scales.max(axis=1, keepdims=True) / np.float32(63)).astype(np.float16).astype(np.float32)
    super_offset = (offsets.max(axis=1, keepdims=True) / np.float32(63)).astype(np.float16).astype(np.float32)
    small = np.clip(np.rint(scales * _inverse(super_scale)), 0, 63)
    lower = np.clip(np.rint(offsets * _inverse(super_offset)), 0, 63)
    shifted = groups + (super_offset * lower)[..., None]
    codes = np.clip(np.rint(shifted * _inverse(super_scale * small)[..., None]), 0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    nibbles = codes[:, :, 0] | (codes[:, :, 1] << 4)
    packed = _six_bits(small.astype(np.uint8), lower.astype(np.uint8))
    return np.concatenate([_half(super_scale), _half(super_offset), packed, nibbles.reshape(len(blocks), -1)], axis=1)


def _six_bits(scales: Bytes, offsets: Bytes) -> Bytes:
    """Eight 6-bit scales and eight 6-bit offsets in twelve bytes: the first four of each in the low bits of eight bytes, whose upper
    bits hold the top of the last four."""
    first = (scales[:, :4] & 63) | ((scales[:, 4:] >> 4) << 6)
    second = (offsets[:, :4] & 63) | ((offsets[:, 4:] >> 4) << 6)
    rest = (scales[:, 4:] & 15) | ((offsets[:, 4:] & 15) << 4)
    return np.concatenate([first, second, rest], axis=1)


def _scales_and_offsets(groups: Floats, top: int) -> tuple[Floats, Floats]:
    """Scale and offset (what is taken off a scaled code, never below 0) of each group that leave the least weighted error."""
    weights = np.sqrt((groups * groups).mean(axis=-1, keepdims=True)) + np.abs(groups)
    low = np.minimum(groups.min(axis=-1), 0)
    spread = groups.max(axis=-1) - low
    total, along_x = weights.sum(-1), (weights * groups).sum(-1)
    best_scale, best_low = spread / np.float32(top), low
    best_error = _weighted_error(groups, weights, best_scale, best_low, top)
    for step in range(21):
        inverse = _inverse(spread / np.float32(top - 1 + 0.1 * step))
        codes = np.clip(np.rint((groups - low[..., None]) * inverse[..., None]), 0, top)
        ones, squares, mixed = (weights * codes).sum(-1), (weights * codes * codes).sum(-1), (weights * groups * codes).sum(-1)
        divisor = total * squares - ones * ones
        scale = (total * mixed - along_x * ones) * _inverse(divisor)
        offset = (squares * along_x - ones * mixed) * _inverse(divisor)
        above = offset > 0
        scale = np.where(above, mixed * _inverse(squares), scale)
        offset = np.where(above, np.float32(0), offset)
        error = _weighted_error(groups, weights, scale, offset, top)
        better = (error < best_error) & (scale > 0)
        best_error = np.where(better, error, best_error)
        best_scale, best_low = np.where(better, scale, best_scale), np.where(better, offset, best_low)
    return best_scale, -best_low


def _weighted_error(groups: Floats, weights: Floats, scale: Floats, low: Floats, top: int) -> Floats:
    codes = np.clip(np.rint((groups - low[..., None]) * _inverse(scale)[..., None]), 0, top)
    difference = codes * scale[..., None] + low[..., None] - groups
    return np.asarray((weights * difference * difference).sum(-1), np.float32)


_SUPER: Final[Mapping[GGMLQuantizationType, Callable[[Floats], Bytes]]] = {
    GGMLQuantizationType.Q4_K: _q4_k,
    GGMLQuantizationType.Q6_K: _q6_k,
}

#: The types that are written.
WRITABLE: Final = (
    GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16, *_UNIFORM, *_SUPER,
)  # fmt: skip
