"""Bitwise comparison of stored tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmasos_hookspecs import QuantizedTensor, Tensor


def same_tensor(left: Tensor, right: Tensor) -> bool:
    """Whether type, shape and every bit agree; for quantised ones codes, scales, offsets and groups."""
    if isinstance(left, QuantizedTensor) and isinstance(right, QuantizedTensor):
        if (left.bits, left.group) != (right.bits, right.group):
            return False
        parts = ("codes", "scales", "zeros", "minimums")
        return all(_same_array(getattr(left, part), getattr(right, part)) for part in parts)
    if isinstance(left, QuantizedTensor) or isinstance(right, QuantizedTensor):
        return False
    return _same_array(np.asarray(left), np.asarray(right))


def _same_array(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.ctypes.data == right.ctypes.data and left.strides == right.strides:
        return True  # both are views of the same mapped file, and comparing would read it
    # As bytes: NaN equals itself, and bfloat16 compares at full speed.
    bits = f"u{left.dtype.itemsize}"
    return bool(np.array_equal(np.ascontiguousarray(left).view(bits), np.ascontiguousarray(right).view(bits)))
