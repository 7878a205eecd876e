"""Packs the rows of one step into one batch and plans the attention calls of its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs
import torch
from torch import Tensor

from llmasos_backend_torch.adapters import shares_of
from llmasos_hookspecs import Row

#: Padded positions that cost as much as one more attention call: a position of one row costs about 0.08 us on two cores, a call 12 us.
_PADDING_FOR_A_CALL: Final = 160


@attrs.frozen
class DecodeRun:
    """Sequences with one new token each in adjacent cache rows, computed in one attention call.

    Attributes:
        start: index of the first one's token in the packed batch.
        row: cache row of the first one.
        lengths: tokens of each sequence, its new one included.
    """

    start: int
    row: int
    lengths: tuple[int, ...]


@attrs.frozen
class PrefillChunk:
    """Several new tokens of one sequence: packed tokens ``start`` to ``start + count``, at ``position`` of cache row ``row``.

    ``spans``: first positions, and the ones after the last, of tokens that see each other in both directions.
    """

    start: int
    row: int
    position: int
    count: int
    spans: tuple[tuple[int, int], ...] = ()


@attrs.define(eq=False)
class StepPlan:
    """One step as a packed batch: first the decode rows in the order of their cache rows, then the prefill chunks.

    Attributes:
        tokens: int64 [total], the packed token ids.
        positions: int64 [total], the position of each token in its sequence.
        decode_rows: int64 [decodes], cache rows of the decode tokens, which are the first of the batch.
        runs, chunks: the parts of the batch.
        wanted: int64 [n], packed tokens whose logits are returned.
        results: for each row of the step, the start and the number of its logits in ``wanted``.
        span: the longest sequence, new tokens included.
        longest: the longest sequence, including tokens that are known to follow.
        rows_used: upper bound of the cache rows of the step.
        masks: see ``mask``.
        hidden: the final hidden states of all tokens are returned in the place of logits.
        fixed_mask: additive mask of the single decode run if the plan is part of a captured program, which is replayed with other positions
            and lengths and must take these from tensors.
        shares: see ``adapters.shares_of``.
        starts: for each row of the step, the place of its first token in the batch.
    """

    tokens: Tensor
    positions: Tensor
    decode_rows: Tensor
    runs: tuple[DecodeRun, ...]
    chunks: tuple[PrefillChunk, ...]
    wanted: Tensor
    results: tuple[tuple[int, int], ...]
    span: int
    longest: int
    rows_used: int
    masks: dict[tuple[int, int, torch.dtype], Tensor | None]  # no factory: the compiler cannot follow attrs there
    fixed_mask: Tensor | None = None
    hidden: bool = False
    shares: tuple[tuple[str, Tensor | None], ...] = ()
    starts: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """Tokens in the batch."""
        return self.tokens.shape[0]

    @property
    def wants_all(self) -> bool:
        """Whether the logits of every token are returned, in the order of the batch."""
        return self.wanted.shape[0] == self.total

    def mask(self, start: int, window: int, dtype: torch.dtype, build: Callable[[], Tensor | None]) -> Tensor | None:
        """The mask of the part that begins at ``start``, built for the first layer that needs it and shared by the others."""
        key = (start, window, dtype)
        if key not in self.masks:
            self.masks[key] = build()
        return self.masks[key]


def plan_step(rows: Sequence[Row], cache_rows: Sequence[int], device: torch.device) -> StepPlan:
    """Pack the rows of a step, all or none of which want hidden states; ``cache_rows[i]`` is the cache row of ``rows[i]``."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].tokens) > 1, cache_rows[i]))
    tokens: list[int] = []
    positions: list[int] = []
    decodes: list[tuple[int, int]] = []
    chunks: list[PrefillChunk] = []
    wanted: list[int] = []
    starts = [0] * len(rows)
    results: list[tuple[int, int]] = [(0, 0)] * len(rows)
    for i in order:
        row, start = rows[i], len(tokens)
        starts[i] = start
        count = len(row.tokens)
        tokens.extend(row.tokens)
        positions.extend(range(row.position, row.position + count))
        if count == 1:
            decodes.append((cache_rows[i], row.position + 1))
        else:
            chunks.append(PrefillChunk(start, cache_rows[i], row.position, count))
        if row.want != "none":
            begin = start if row.want in ("all", "hidden") else start + count - 1
            results[i] = (len(wanted), start + count - begin)
            wanted.extend(range(begin, start + count))
    parts = (tokens, positions, [row for row, _ in decodes], wanted)
    # One copy to the device instead of four: on a GPU each copy waits for running kernels.
    packed = torch.tensor([number for part in parts for number in part], dtype=torch.int64, device=device)
    ids, at, decode_rows, wanted_ids = packed.split([len(part) for part in parts])
    return StepPlan(
        tokens=ids,
        positions=at,
        decode_rows=decode_rows,
        runs=tuple(_runs(decodes)),
        chunks=tuple(chunks),
        wanted=wanted_ids,
        results=tuple(results),
        span=max(row.position + len(row.tokens) for row in rows),
        longest=max(max(row.known, row.position + len(row.tokens)) for row in rows),
        rows_used=max(cache_rows) + 1,
        masks={},
        hidden=rows[0].want == "hidden",
        starts=tuple(starts),
        shares=shares_of(rows, starts, device) if any(row.adapter for row in rows) else (),
    )


def _runs(decodes: Sequence[tuple[int, int]]) -> list[DecodeRun]:
    """Split (cache row, length), sorted by row, into runs of adjacent rows with lengths close enough to pad."""
    runs: list[DecodeRun] = []
    start = 0
    for end in range(1, len(decodes) + 1):
        if end < len(decodes) and decodes[end][0] == decodes[end - 1][0] + 1 and _padding(decodes[start : end + 1]) <= _PADDING_FOR_A_CALL:
            continue
        runs.append(DecodeRun(start, decodes[start][0], tuple(length for _, length in decodes[start:end])))
        start = end
    return runs


def _padding(decodes: Sequence[tuple[int, int]]) -> int:
    lengths = [length for _, length in decodes]
    return max(lengths) * len(lengths) - sum(lengths)
