"""Where images stand in slots: positions of text after an image, and of its embeddings, depend on its rows and columns (Qwen2-VL)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmasos_backend_torch.vision.images import Images
from llmasos_hookspecs import Row

#: Start of an image in its sequence -> its rows and columns.
_Grids = dict[int, tuple[int, int]]


class SlotPlaces:
    """The images of each slot that have rows and columns (https://arxiv.org/abs/2409.12191, section 2.1: M-RoPE).

    An image begins at the position after the text before it. Its embeddings differ in the position of their row and of their column, and
    the text after it goes on behind the largest of these.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._grids: dict[int, _Grids] = {}

    def positions(self, rows: Sequence[Row]) -> list[Tensor]:
        """For each row the positions [3, tokens] of time, row and column that its tokens are rotated by; empty where no row's differ from
        those in the sequence."""
        known = [self._of(row) for row in rows]
        return [_positions(row, grids) for row, grids in zip(rows, known, strict=True)] if any(known) else []

    def keep(self, row: Row) -> None:
        """Remember the images of a row that was computed."""
        if grids := self._of(row):
            self._grids[row.slot] = grids

    def truncate(self, slot: int, length: int) -> None:
        """Forget the images that begin at ``length`` or after it."""
        kept = {start: grid for start, grid in self._grids.pop(slot, {}).items() if start < length}
        if kept:
            self._grids[slot] = kept

    def fork(self, slot: int, copy: int) -> None:
        if slot in self._grids:
            self._grids[copy] = dict(self._grids[slot])

    def _of(self, row: Row) -> _Grids:
        found = dict(self._grids.get(row.slot, {}))
        for placed in row.media:
            grid = self._images.grid(placed.media)
            if grid is not None:
                found[placed.start] = grid
        return found


def _positions(row: Row, grids: _Grids) -> Tensor:
    """``start + shift`` is the position of an image's first embedding."""
    end = row.position + len(row.tokens)
    found = torch.arange(row.position, end).repeat(3, 1)
    shift = 0
    for start, (height, width) in sorted(grids.items()):
        length, base = height * width, start + shift
        first, last = max(start, row.position), min(start + length, end)
        if first < last:
            at = torch.arange(first - start, last - start)
            places = torch.stack([torch.full_like(at, base), base + at // width, base + at % width])
            found[:, first - row.position : last - row.position] = places
        shift += max(height, width) - length
        if start + length < end:
            after = max(start + length, row.position)
            found[:, after - row.position :] = torch.arange(after, end) + shift
    return found
