"""The real model: hardly any loss in bfloat16, and with activations of 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_backend_openvino.precision import has_bfloat16
from llmasos_hookspecs import Row

pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.skipif(not has_bfloat16(), reason="OpenVINO computes no bfloat16 on this CPU"),
]


def test_bfloat16_and_int8_cost_hardly_anything(start: Any, smollm2_gguf: Path) -> None:
    """The mean KL divergence from float32 over a text is under 0.01 in bf16, and by ``auto``, which rounds activations where the CPU
    multiplies int8; computed at once and token by token."""
    checkpoint = pytest.importorskip("llmasos.compose.formats").open_model(smollm2_gguf)
    text = "The river rises in the hills north of the town, and its valley has been farmed since the stone age. 河流发源于城北的山丘。"
    tokens = checkpoint.tokenizer().encode(text)
    limits = {"threads": 2, "max_sequences": 1, "context_length": 512}
    exact = _log_probabilities(start(checkpoint, **limits), [tokens])
    for precision in ("bf16", "auto"):
        engine = start(checkpoint, {"precision": precision}, **limits)
        for pieces in ([tokens], [[token] for token in tokens]):
            divergence = (np.exp(exact) * (exact - _log_probabilities(engine, pieces))).sum(-1).mean()
            assert 0 <= divergence < 0.01


def _log_probabilities(engine: Any, pieces: list[list[int]]) -> Any:
    slot, found, at = engine.open(), [], 0
    for piece in pieces:
        found.append(np.array(engine.step([Row(slot, piece, at, "all")])[0]))
        at += len(piece)
    engine.close(slot)
    logits = np.concatenate(found).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
