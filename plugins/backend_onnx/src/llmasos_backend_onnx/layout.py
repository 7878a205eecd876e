"""The layout of the new tokens of several sequences in one run of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.steps import Integers


@attrs.frozen
class Part:
    """The tokens of one sequence in a run.

    Attributes:
        row: its row of the KV cache.
        tokens: int64 [n], at least one.
        length: tokens in the cache before the run.
        wanted: number of last tokens whose logits are returned.
        phase: phase of the sequence, which selects the rotary tables (``rope``).
    """

    row: int
    tokens: Integers
    length: int
    wanted: int
    phase: int = 0


@attrs.frozen(eq=False)
class Layout:
    """The inputs of the graph that depend only on the shape of a run: see ``decoder``.

    ONNX Runtime computes a single row with a kernel (GEMV) that sums in another order than the kernel for several rows (GEMM), and splits
    the attention rows of a sequence into blocks of an even size. So for exactness every sequence has an even number of attention positions,
    with its last token repeated if the number is odd: then no block holds a single row, and the logits of a token are bitwise identical
    regardless of the batch composition. The repeated token lies past the end of the sequence, and the next token overwrites it.
    ``tests/test_exact_drafts.py`` checks this.

    Attributes:
        rows: bound rows of the cache, from the first part's to the last part's; rows between them without a part are not changed.
        batch, packed, queries, wanted: inputs of the graph.
    """

    rows: int
    batch: Integers
    packed: Integers
    queries: npt.NDArray[np.int32]
    wanted: Integers

    @classmethod
    def of(cls, shape: Sequence[tuple[int, int, int]], *, even_length: bool, even_tokens: bool) -> Self:
        """The layout of parts, each given as (row relative to the first part's, number of tokens, number of wanted logits).

        ``even_length``: give every sequence an even number of attention positions. ``even_tokens``: make the numbers of packed tokens and
        of logits even by repeating the last one, for linear layers whose single-row kernel rounds differently.
        """
        rows = shape[-1][0] + 1
        queries = np.zeros(rows, dtype=np.int32)
        for row, count, _ in shape:
            queries[row] = count + count % 2 * even_length
        positions = np.arange(queries.max())
        batch = np.zeros((rows, len(positions)), dtype=np.int64)
        packed: list[Integers] = []
        wanted: list[Integers] = []
        start = 0
        for row, count, last in shape:
            batch[row] = start + np.minimum(positions, count - 1)
            packed.append(np.stack((np.full(count, row), np.arange(count)), axis=1))
            wanted.append(np.arange(start + count - last, start + count))
            start += count
        return cls(
            rows=rows,
            batch=batch,
            packed=_made_even(np.concatenate(packed), even_tokens),
            queries=queries,
            wanted=_made_even(np.concatenate(wanted), even_tokens),
        )


def _made_even(array: Integers, even: bool) -> Integers:
    return np.concatenate((array, array[-1:])) if even and len(array) % 2 else array


def runs(parts: Sequence[Part], *, tokens: int, positions: int) -> list[list[Part]]:
    """Group parts into runs, in the order of their rows. A run holds parts of one phase with at most ``tokens`` tokens and ``positions``
    attention positions, padding included; or a single part of any size."""
    found: list[list[Part]] = []
    count = longest = 0
    for part in sorted(parts, key=lambda part: (part.phase, part.row)):
        count += len(part.tokens)
        longest = max(longest, len(part.tokens))
        begun = found[-1][0] if found else None
        if begun and begun.phase == part.phase and count <= tokens and longest * (part.row - begun.row + 1) <= positions:
            found[-1].append(part)
        else:
            found.append([part])
            count = longest = len(part.tokens)
    return found
