"""One step of the engine, with recovery where the engine fails on it."""

from __future__ import annotations

from collections import abc

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Engine, EngineFailed, Row

Logits = npt.NDArray[np.float32]


def execute(engine: Engine, rows: abc.Sequence[Row]) -> list[Logits | Exception]:
    """Compute the rows; for each row returns its logits, or the error that this row alone causes.

    A step that fails is rolled back and repeated in halves, which isolates the row that fails, and makes steps that are too large smaller.
    After an error a row's slot is truncated to its position before the step. Raises ``EngineFailed`` where the engine is lost.
    """
    try:
        results = engine.step(rows)
    except EngineFailed:
        raise
    except Exception as error:
        _take_back(engine, rows, error)
        if len(rows) == 1:
            return [error]
        middle = len(rows) // 2
        first = execute(engine, rows[:middle])
        # The engine may reuse the arrays of a step in the next one.
        kept = [result if isinstance(result, Exception) else result.copy() for result in first]
        return [*kept, *execute(engine, rows[middle:])]
    if len(results) != len(rows):
        raise EngineFailed(f"The engine returned {len(results)} results for {len(rows)} rows.")
    return list(results)


def _take_back(engine: Engine, rows: abc.Sequence[Row], error: Exception) -> None:
    try:
        for row in rows:
            engine.truncate(row.slot, row.position)
    except Exception as second:
        raise EngineFailed(f"The engine failed ({error}), and then could not take the step back ({second}).") from error
