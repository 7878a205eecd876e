"""How the new tokens of several sequences stand in one run of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.steps import Integers


@attrs.frozen
class Part:
    """What one sequence computes in a run.

    Attributes:
        row: where its keys and values are in the cache.
        tokens: int64 [n], at least one.
        length: tokens it holds before.
        wanted: of the last so many tokens the logits are asked for.
        phase: of its sequence: which rotary tables it needs (``rope``).
    """

    row: int
    tokens: Integers
    length: int
    wanted: int
    phase: int = 0


@attrs.frozen(eq=False)
class Layout:
    """The inputs of the graph that follow from the shape of a run: see ``decoder``.

    ONNX Runtime multiplies a single row by a kernel that sums in another order than the one for several, and takes a sequence's rows of
    attention in blocks of an even number. So for exactness every sequence gives attention an even number of places, the last token
    standing there twice where it has an odd one: then no block holds a single row, and a token gets the same bits in whatever company
    it is computed. The place too many is behind the sequence's end, where the next token overwrites it. ``tests/test_exact_drafts.py``
    holds this.

    Attributes:
        rows: of the cache that are bound, from the first part's to the last one's; those between that have no part are left alone.
        batch, packed, queries, wanted: inputs of the graph.
    """

    rows: int
    batch: Integers
    packed: Integers
    queries: npt.NDArray[np.int32]
    wanted: Integers

    @classmethod
    def of(cls, shape: Sequence[tuple[int, int, int]], *, even_places: bool, even_tokens: bool) -> Self:
        """The layout of parts that stand so many rows behind the first, have so many tokens, and want so many logits.

        ``even_places``: give every sequence an even number of places of attention. ``even_tokens``: make the numbers of tokens and of
        logits even, by repeating the last, for linear layers whose kernels for one row round differently.
        """
        rows = shape[-1][0] + 1
        queries = np.zeros(rows, dtype=np.int32)
        for row, count, _ in shape:
            queries[row] = count + count % 2 * even_places
        places = np.arange(queries.max())
        batch = np.zeros((rows, len(places)), dtype=np.int64)
        packed: list[Integers] = []
        wanted: list[Integers] = []
        start = 0
        for row, count, last in shape:
            batch[row] = start + np.minimum(places, count - 1)
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


def runs(parts: Sequence[Part], *, tokens: int, places: int) -> list[list[Part]]:
    """Parts that are computed together, in the order of their rows: a run has parts of one phase, at most so many tokens, and so many
    places with the filler, or a single part."""
    found: list[list[Part]] = []
    count = longest = 0
    for part in sorted(parts, key=lambda part: (part.phase, part.row)):
        count += len(part.tokens)
        longest = max(longest, len(part.tokens))
        begun = found[-1][0] if found else None
        if begun and begun.phase == part.phase and count <= tokens and longest * (part.row - begun.row + 1) <= places:
            found[-1].append(part)
        else:
            found.append([part])
            count = longest = len(part.tokens)
    return found
