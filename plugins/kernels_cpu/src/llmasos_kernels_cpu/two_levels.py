"""Finds the two levels of the scales of GGUF's K blocks: a float16 for a super-block times a small integer for each of its blocks.

Checkpoints hand out the products, as float32. The levels are found again by trying what integer the largest product stood for; they are
used only where every product comes out exactly.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

#: What the largest integer of a super-block may be; first those that the quantisers of llama.cpp make it.
_LARGEST: Final = (63, -128, 127, 31, *(k for k in range(126, 0, -1) if k not in (63, 31)))
#: Super-blocks that are tried first: those of other scales fail at once.
_SAMPLE: Final = 64


def split_levels(products: Floats, count: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]] | None:
    """Lower levels, int8 [rows, groups], and upper ones, float16 [rows, ceil(groups / count)], whose products are the given ones,
    [rows, groups]; None if there are none."""
    rows, groups = products.shape
    padded = np.pad(products, ((0, 0), (0, -groups % count)))
    blocks = padded.reshape(-1, count)
    if _levels(blocks[:_SAMPLE]) is None:
        return None
    found = _levels(blocks)
    if found is None:
        return None
    lower, upper = found
    return np.ascontiguousarray(lower.reshape(rows, -1)[:, :groups]), upper.reshape(rows, -1)


def _levels(blocks: Floats) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]] | None:
    lower = np.zeros(blocks.shape, np.int8)
    upper = np.zeros(len(blocks), np.float16)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)[:, 0]
    left = np.flatnonzero(extreme)
    for largest in _LARGEST:
        if not len(left):
            break
        with np.errstate(over="ignore"):
            halves = (extreme[left] / np.float32(largest)).astype(np.float16)
        factors = halves.astype(np.float32)
        usable = np.isfinite(factors) & (factors != 0)
        whole = np.clip(np.rint(blocks[left] / np.where(usable, factors, 1)[:, None]), -128, 127)
        exact = usable & (whole.astype(np.float32) * factors[:, None] == blocks[left]).all(axis=1)
        lower[left[exact]], upper[left[exact]] = whole[exact].astype(np.int8), halves[exact]
        left = left[~exact]
    return None if len(left) else (lower, upper)
