"""The real model: hardly any loss in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_hookspecs import Engine, EngineLimits, Row
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture(scope="module")
def checkpoint(smollm2_gguf: Path) -> Any:
    opening = pytest.importorskip("llmasos.runtime.checkpoint")
    return opening.open_checkpoint(smollm2_gguf)


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
    """The mean KL divergence of int8 from float32 over a text is under 0.01."""
    text = "The river rises in the hills north of the town, and its valley has been farmed since the stone age. 河流发源于城北的山丘。"
    tokens = checkpoint.tokenizer().encode(text)
    coded = load(checkpoint, tmp_path, "int8")
    exact, rounded = (_log_probabilities(engine, tokens) for engine in (float_engine, coded))
    coded.shutdown()
    divergence = (np.exp(exact) * (exact - rounded)).sum(-1).mean()
    assert 0 <= divergence < 0.01


def _log_probabilities(engine: Engine, tokens: Sequence[int]) -> Any:
    slot = engine.open()
    logits = engine.step([Row(slot, tokens, 0, "all")])[0].astype(np.float64)
    engine.close(slot)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
