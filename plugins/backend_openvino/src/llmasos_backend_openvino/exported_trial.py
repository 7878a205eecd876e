"""What an exported graph must show before it is used: a sequence's logits are the same whatever is computed beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from llmasos_backend_openvino.engine import OpenVinoEngine
from llmasos_hookspecs import Row, UnsupportedModel

#: Tokens of the trial.
_TOKENS: Final = 6
#: Relative error of bf16 between two orders of computation is 1e-2; a graph that mixes sequences, or loses their past, errs by about 1.
_TOLERANCE: Final = 0.05


def try_out(engine: OpenVinoEngine, path: Path) -> None:
    """Compute a sequence at once, and again in two pieces beside another one.

    Raises ``UnsupportedModel`` where the logits differ.
    """
    length = min(_TOKENS, engine.info.context_length)
    tokens = [(7 * at + 3) % engine.info.vocab_size for at in range(length)]
    if length < 2:
        return
    slot = engine.open()
    alone = _logits(engine, [Row(slot, tokens, 0)])
    engine.truncate(slot, 0)
    engine.step([Row(slot, tokens[: length // 2], 0, "none")])
    rows = [Row(slot, tokens[length // 2 :], length // 2)]
    others = [engine.open()] if engine.info.max_sequences > 1 else []
    together = _logits(engine, [*(Row(other, tokens[::-1], 0, "all") for other in others), *rows])
    for opened in (slot, *others):
        engine.close(opened)
    if not np.linalg.norm(together - alone) <= _TOLERANCE * np.linalg.norm(alone):
        raise UnsupportedModel(
            f"{path} computes a sequence in pieces, or beside another one, otherwise than alone; take the original model with another "
            "loader."
        )


def _logits(engine: OpenVinoEngine, rows: list[Row]) -> Any:
    return np.array(engine.step(rows)[-1])
