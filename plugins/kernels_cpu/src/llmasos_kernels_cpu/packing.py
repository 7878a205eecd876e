"""Packs quantised matrices into the layout that ``native/matrix.h`` describes, unchanged in value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import QuantizedTensor
from llmasos_kernels_cpu.shape import ROWS, STEP, Scale, Shape, Zero
from llmasos_kernels_cpu.two_levels import split_levels

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: Columns of a super-block of GGUF's K types.
_SUPER: Final = 256


@attrs.frozen(eq=False)
class PackedMatrix:
    """A packed matrix.

    Attributes:
        shape: its shape.
        data: uint8 [panels, bytes of a panel].
    """

    shape: Shape
    data: Bytes


@attrs.frozen(eq=False)
class _Parts:
    """Scales, minimums and zeros of a matrix, each [rows, groups] or absent, and the upper levels, float16 [rows, supers]."""

    kind: Scale
    scales: npt.NDArray[Any]
    minimums: npt.NDArray[Any] | None = None
    upper_scales: npt.NDArray[np.float16] | None = None
    upper_minimums: npt.NDArray[np.float16] | None = None
    super: int = 1


def pack(tensors: Sequence[QuantizedTensor]) -> PackedMatrix | None:
    """One matrix of the rows of all tensors; None if they share no form, or groups are no multiple of 16 columns."""
    columns = tensors[0].shape[1]
    if any(tensor.shape[1] != columns for tensor in tensors):
        return None
    groups = {min(tensor.group, columns) for tensor in tensors}
    bits = {_stored_bits(tensor.bits) for tensor in tensors}
    minimums = {tensor.minimums is not None for tensor in tensors}
    if len(groups) > 1 or len(bits) > 1 or len(minimums) > 1:
        return None
    (group,), (stored,), (minimum,) = groups, bits, minimums
    unit = 32 if group % 32 == 0 or group == columns else 16
    if group % unit and group != columns:
        return None
    zero: Zero = "minimum" if minimum else "stored" if any(tensor.zeros is not None for tensor in tensors) else "fixed"
    scales = np.concatenate([tensor.scales for tensor in tensors])
    parts = _parts(scales, np.concatenate([_given(tensor.minimums) for tensor in tensors]) if minimum else None, group, columns)
    rows = len(scales)
    shape = Shape(
        rows=rows, columns=columns, bits=stored, unit=unit, group=-(-group // unit), zero=zero, scale=parts.kind, super=parts.super
    )
    codes = np.concatenate([_shifted(tensor, stored) if zero == "fixed" else tensor.codes for tensor in tensors])
    zeros = np.concatenate([_zeros(tensor) for tensor in tensors]) if zero == "stored" else None
    order = (parts.scales, parts.minimums, zeros, parts.upper_scales, parts.upper_minimums)
    pieces = [_by_panels(part, shape.panels) for part in order if part is not None]
    filling = shape.panel_bytes - sum(piece.shape[1] for piece in pieces) - shape.units * ROWS * unit * stored // 8
    pieces += [np.zeros((shape.panels, filling), np.uint8), _pack_codes(codes, shape)]
    return PackedMatrix(shape, np.concatenate(pieces, axis=1))


def _given(array: Floats | None) -> Floats:
    assert array is not None
    return array


def _stored_bits(bits: int) -> int:
    return 4 if bits <= 4 else 6 if bits <= 6 else 8


def _shifted(tensor: QuantizedTensor, bits: int) -> Bytes:
    """The codes of a symmetric tensor, moved so that their zero is ``2 ** (bits - 1)``."""
    return tensor.codes + np.uint8((1 << (bits - 1)) - (1 << (tensor.bits - 1)))


def _zeros(tensor: QuantizedTensor) -> Bytes:
    if tensor.zeros is not None:
        return tensor.zeros
    return np.full(tensor.scales.shape, 1 << (tensor.bits - 1), dtype=np.uint8)


def _parts(scales: Floats, minimums: Floats | None, group: int, columns: int) -> _Parts:
    """The scales in the fewest bytes that hold them exactly."""
    halves = [None if array is None else _as_half(array) for array in (scales, minimums)]
    if halves[0] is not None and (minimums is None or halves[1] is not None):
        return _Parts("half", halves[0], halves[1])
    if group < columns and _SUPER % group == 0:
        levels = [None if array is None else split_levels(array, _SUPER // group) for array in (scales, minimums)]
        if levels[0] is not None and (minimums is None or levels[1] is not None):
            lower, upper = levels[0]
            lower_minimums, upper_minimums = levels[1] or (None, None)
            return _Parts("two_level", lower, lower_minimums, upper, upper_minimums, _SUPER // group)
    return _Parts("single", scales, minimums)


def _as_half(array: Floats) -> npt.NDArray[np.float16] | None:
    """The same numbers in float16; None if one of them is not."""
    with np.errstate(over="ignore"):
        halves = array.astype(np.float16)
    return halves if np.array_equal(halves.astype(np.float32), array) else None


def _by_panels(part: npt.NDArray[Any], panels: int) -> Bytes:
    """[rows, groups] as the bytes of [panels, groups, rows of a panel]; missing rows are 0."""
    padded = np.pad(part, ((0, panels * ROWS - len(part)), (0, 0)))
    ordered = np.ascontiguousarray(padded.reshape(panels, ROWS, -1).transpose(0, 2, 1))
    return ordered.reshape(panels, -1).view(np.uint8)


def _pack_codes(codes: Bytes, shape: Shape) -> Bytes:
    """[rows, columns] codes as [panels, bytes]: for each unit and step the codes of all rows.

    Two steps of 4-bit codes share bytes, the first in the low half. Of 6-bit codes the low four bits stand so, and behind those of a unit
    the high two of four steps in a byte, the first in the lowest.
    """
    padded = np.pad(codes, ((0, shape.panels * ROWS - shape.rows), (0, shape.units * shape.unit - shape.columns)))
    steps = shape.unit // STEP
    ordered = padded.reshape(shape.panels, ROWS, shape.units, steps, STEP).transpose(0, 2, 3, 1, 4)
    lines = np.ascontiguousarray(ordered).reshape(shape.panels, shape.units, steps, ROWS * STEP)
    if shape.bits == 8:
        return lines.reshape(shape.panels, -1)
    low = lines & 15
    packed: Bytes = np.asarray(low[:, :, 0::2] | low[:, :, 1::2] << 4, dtype=np.uint8)
    if shape.bits == 6:
        high = lines >> 4
        pairs = high[:, :, 0::4] | high[:, :, 1::4] << 2 | high[:, :, 2::4] << 4 | high[:, :, 3::4] << 6
        packed = np.concatenate([packed, pairs], axis=2)
    return packed.reshape(shape.panels, -1)
