"""Converts stored or float weights to the codes of the int4 and int8 kernels."""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmasos_hookspecs import QuantizedTensor

#: Group sizes that the int4 kernel takes.
INT4_GROUPS: Final = (32, 64, 128, 256)
#: Columns of the groups that float weights are rounded in.
NEW_GROUP: Final = 32


@attrs.frozen(eq=False)
class Grouped:
    """A matrix as ``scale * (code - 8) + offset``: codes uint8 [rows, columns] below 16; scales, offsets float32 [rows, groups]."""

    codes: Tensor
    scales: Tensor
    offsets: Tensor
    group: int

    def dequantize(self) -> Tensor:
        """The weights that the kernel effectively uses: float32 [rows, columns], with scales and offsets in bfloat16."""
        rows, columns = self.codes.shape
        codes = self.codes.view(rows, -1, self.group).float() - 8
        scales, offsets = (part.to(torch.bfloat16).float()[..., None] for part in (self.scales, self.offsets))
        return (codes * scales + offsets).view(rows, columns)


def fits_groups(tensor: QuantizedTensor) -> bool:
    """Whether the int4 kernel can represent the stored codes."""
    return kernel_group(tensor) is not None


def kernel_group(tensor: QuantizedTensor) -> int | None:
    """The largest group size of the int4 kernel that divides the tensor's group; None if the kernel cannot represent the codes."""
    if tensor.bits > 4:
        return None
    columns = tensor.shape[1]
    fitting = [group for group in INT4_GROUPS if min(tensor.group, columns) % group == 0 and columns % group == 0]
    return fitting[-1] if fitting else None


def stored_groups(tensor: QuantizedTensor) -> Grouped | None:
    """The stored codes for the int4 kernel, with only scales and offsets rounded; None if it cannot represent them.

    2- and 3-bit codes are shifted so that their zero point is the kernel's zero, 8: otherwise a large offset would cancel most of the value
    and leave its rounding error. With integer zero points the offset is then 0.
    """
    group = kernel_group(tensor)
    if group is None:
        return None
    spread = np.arange(0, tensor.shape[1], group) // tensor.group
    scales = tensor.scales[:, spread]
    if tensor.minimums is not None:
        minimums = tensor.minimums[:, spread]
        with np.errstate(divide="ignore", invalid="ignore"):
            zeros = np.where(scales == 0, np.float32(0), -minimums / scales)
    else:
        zeros = np.float32(2 ** (tensor.bits - 1)) if tensor.zeros is None else tensor.zeros[:, spread].astype(np.float32)
    moved = np.broadcast_to(np.clip(np.rint(8 - zeros), 0, 16 - 2**tensor.bits), scales.shape)
    offsets = scales * (8 - moved - zeros) if tensor.minimums is None else minimums + scales * (8 - moved)
    codes = tensor.codes + np.repeat(moved.astype(np.uint8), group, axis=1)
    return Grouped(
        torch.from_numpy(codes), torch.from_numpy(np.array(scales)), torch.from_numpy(np.array(offsets, dtype=np.float32)), group
    )


def fits_rows(tensor: QuantizedTensor) -> bool:
    """Whether the int8 kernel can represent the stored codes: one scale a row, no offsets, and ``code - zero`` within int8."""
    if tensor.group < tensor.shape[1] or tensor.minimums is not None:
        return False
    if tensor.zeros is None or tensor.bits < 8:
        return True
    codes = _from_zero(tensor)
    return bool(codes.min(initial=0) >= -128 and codes.max(initial=0) <= 127)


def _from_zero(tensor: QuantizedTensor) -> npt.NDArray[np.int16]:
    """``code - zero`` of each weight."""
    zeros = 2 ** (tensor.bits - 1) if tensor.zeros is None else tensor.zeros.astype(np.int16)
    return tensor.codes.astype(np.int16) - np.int16(zeros)


def stored_rows(tensor: QuantizedTensor) -> tuple[Tensor, Tensor] | None:
    """The stored codes as int8 [rows, columns] with float32 scales [rows], unrounded; None if the int8 kernel cannot represent them."""
    if not fits_rows(tensor):
        return None
    return torch.from_numpy(_from_zero(tensor).astype(np.int8)), torch.from_numpy(np.array(tensor.scales[:, 0]))


def round_to_groups(weight: Tensor) -> Grouped | None:
    """float32 weights rounded to 4 bits in groups of 32; None if 32 does not divide the columns.

    Each group takes the range with the least squared error among a few around its full range.
    """
    rows, columns = weight.shape
    if columns % NEW_GROUP:
        return None
    groups = weight.view(rows, -1, NEW_GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    middle, width = (low + high) / 2, (high - low).clamp_min(1e-12)
    best = torch.full_like(low, float("inf"))
    scale, offset = torch.empty_like(low), torch.empty_like(low)
    for factor in (1.0, 0.95, 0.9, 0.85, 0.8):
        tried = (width * factor / 15).to(torch.bfloat16).float()
        centre = (middle - width * factor / 2 + 8 * tried).to(torch.bfloat16).float()
        codes = ((groups - centre) / tried + 8).round_().clamp_(0, 15)
        error = ((codes - 8) * tried + centre - groups).square().sum(-1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        scale, offset = torch.where(better, tried, scale), torch.where(better, centre, offset)
    codes = ((groups - offset) / scale + 8).round_().clamp_(0, 15)
    return Grouped(codes.view(rows, columns).to(torch.uint8), scale[..., 0], offset[..., 0], NEW_GROUP)


def round_to_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float32 weights rounded to int8 [rows, columns] with float32 scales [rows]."""
    scales = weight.abs().amax(-1).clamp_min(1e-12) / 127
    return (weight / scales[:, None]).round_().clamp_(-127, 127).to(torch.int8), scales
