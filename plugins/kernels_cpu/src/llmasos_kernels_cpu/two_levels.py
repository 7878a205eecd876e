"""Finds the two levels of the scales of GGUF's K blocks: a float16 for a super-block times a small integer for each of its blocks.

Checkpoints hand out the products, as float32. The levels are found again by trying what integer the largest product stood for; they are
used only where every product comes out exactly.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

#: What the largest integer of a super-block may be, in the order in which they are tried: first those that the quantisers of llama.cpp make
#: it, and most super-blocks need no others.
_LARGEST: Final = tuple(
    np.array(group, np.float32) for group in ([63], [-128, 127, 31], [k for k in range(126, 0, -1) if k not in (63, 31)])
)
#: Super-blocks that are tried at once; fewer first, because those of other scales fail at once.
_FIRST: Final = 64
_MANY: Final = 4096
#: Bits of a float32 that are 0 in each product of a float16, of 11 significant bits, and an integer of at most 7.
_UNUSED: Final = np.uint32(0b111111)
#: Bits of a float32 that a float16 has no room for, and the smallest float16 that has room for all others.
_LOST: Final = np.uint32(0x1FFF)
_SMALLEST: Final = np.float32(2**-14)


def split_levels(products: Floats, count: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]] | None:
    """Lower levels, int8 [rows, groups], and upper ones, float16 [rows, ceil(groups / count)], whose products are the given ones,
    [rows, groups]; None if there are none."""
    rows, groups = products.shape
    padded = np.pad(products, ((0, 0), (0, -groups % count)))
    blocks = padded.reshape(-1, count)
    if (blocks.view(np.uint32) & _UNUSED).any():
        return None
    lower, upper = np.zeros(blocks.shape, np.int8), np.zeros(len(blocks), np.float16)
    starts = (0, *range(_FIRST, len(blocks), _MANY))
    for start, end in itertools.pairwise((*starts, len(blocks))):
        if not _split(blocks[start:end], lower[start:end], upper[start:end]):
            return None
    return np.ascontiguousarray(lower.reshape(rows, -1)[:, :groups]), upper.reshape(rows, -1)


def _split(blocks: Floats, lower: npt.NDArray[np.int8], upper: npt.NDArray[np.float16]) -> bool:
    """Fill in the levels; whether each block has some."""
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)[:, 0]
    left = np.flatnonzero(extreme)
    for largest in _LARGEST:
        quotients = extreme[left, None] / largest
        # Few integers leave a float16 of the largest product, and only with these is it worth a look at the others. Below the smallest that
        # has all its bits a float16 may be off by more than a half of the integer.
        which, divisor = np.nonzero((quotients.view(np.uint32) & _LOST == 0) | (np.abs(quotients) < _SMALLEST))
        tried = left[which]
        with np.errstate(over="ignore"):
            halves = quotients[which, divisor].astype(np.float16)
        usable = np.isfinite(halves) & (halves != 0)
        factors = np.where(usable, halves, 1).astype(np.float32)[:, None]
        products = blocks[tried]
        whole = np.clip(np.rint(products / factors), -128, 127)
        exact = np.flatnonzero(usable & (whole * factors == products).all(axis=1))
        first = exact[np.flatnonzero(np.diff(tried[exact], prepend=-1))]  # of each block, which stand together
        lower[tried[first]], upper[tried[first]] = whole[first].astype(np.int8), halves[first]
        left = left[upper[left] == 0]
        if not len(left):
            return True
    return False
