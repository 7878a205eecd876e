"""Group sizes: how many columns share a scale."""

from __future__ import annotations

from typing import Final

#: Group sizes that kernels and the compressed-tensors layout support; 0 is one scale a row.
GROUPS: Final = (0, 16, 32, 64, 128, 256)

#: Smaller groups spend too many bytes on scales, and no kernel supports them.
SMALLEST: Final = 16


def fitting_group(columns: int, group: int) -> int | None:
    """The largest power of two up to ``group`` that divides the columns; the columns themselves for group 0.

    The compressed-tensors layout has no short last group, so 576 columns in groups of 128 become groups of 64.
    None if no group size of at least 16 divides the columns.
    """
    if group == 0:
        return columns
    while group >= SMALLEST:
        if columns % group == 0:
            return group
        group //= 2
    return None
