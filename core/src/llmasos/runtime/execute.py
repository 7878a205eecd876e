"""One step of the engine, whatever it says to it."""

from __future__ import annotations

from collections import abc

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Engine, EngineFailed, Row

Logits = npt.NDArray[np.float32]


def execute(engine: Engine, rows: abc.Sequence[Row]) -> list[Logits | Exception]:
    """Compute the rows: for each its logits, or the error that it alone is to blame for.

    A step that fails is taken back and done again in halves, so that what is too large becomes smaller and what is broken is found.
    After an error a row's slot is back where it stood. Raises ``EngineFailed`` where the engine is lost.
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
        # A step's logits are the caller's until the next step only.
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
