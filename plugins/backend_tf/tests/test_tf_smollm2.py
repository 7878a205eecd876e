"""The real model: hardly any loss in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_hookspecs import Engine, EngineLimits, Row
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext

# tests/test_backends_agree.py computes the real model in float32 on each change, and the kit tiny ones in 8 bits.
pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def checkpoint(smollm2_gguf: Path) -> Any:
    opening = pytest.importorskip("llmasos.compose.formats")
    return opening.open_model(smollm2_gguf)


@pytest.fixture(scope="module")
def float_engine(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = load(checkpoint, tmp_path_factory.mktemp("tf"), "fp32")
    yield engine
    engine.shutdown()


def load(checkpoint: Any, root: Path, precision: str) -> Engine:
    plugin = PluginSandbox("llmasos_backend_tf")
    context = SandboxContext(root=root, limits=EngineLimits(threads=2, max_sequences=1, context_length=512))
    engine: Engine = plugin.call("llmasos_load", checkpoint=checkpoint, options=plugin.options(precision=precision), context=context)
    return engine


def test_eight_bits_cost_hardly_anything(checkpoint: Any, float_engine: Engine, tmp_path: Path) -> None:
    """The mean KL divergence of int8 from float32 over a text is under 0.01, computed at once and token by token."""
    text = "The river rises in the hills north of the town, and its valley has been farmed since the stone age. 河流发源于城北的山丘。"
    tokens = checkpoint.tokenizer().encode(text)
    coded = load(checkpoint, tmp_path, "int8")
    exact = _log_probabilities(float_engine, [tokens])
    for pieces in ([tokens], [[token] for token in tokens]):
        divergence = (np.exp(exact) * (exact - _log_probabilities(coded, pieces))).sum(-1).mean()
        assert 0 <= divergence < 0.01
    coded.shutdown()


def _log_probabilities(engine: Engine, pieces: Sequence[Sequence[int]]) -> Any:
    slot, found, at = engine.open(), [], 0
    for piece in pieces:
        found.append(engine.step([Row(slot, piece, at, "all")])[0])
        at += len(piece)
    engine.close(slot)
    logits = np.concatenate(found).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
