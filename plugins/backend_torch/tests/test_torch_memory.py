"""A tied head takes no memory of its own where its layout is the embedding's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llmasos_backend_torch import Options
from llmasos_backend_torch.linear import stays_plain
from llmasos_backend_torch.loading import load
from llmasos_backend_torch.memory import predict
from llmasos_hookspecs import EngineLimits, Row
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_hookspecs.testing.sandbox import SandboxContext

CASES = [("float32", True), ("float32", False), ("bfloat16", True), ("int8", True)]


@pytest.mark.parametrize(("dtype", "packed_copy"), CASES)
def test_a_tied_head(tmp_path: Path, dtype: str, packed_copy: bool) -> None:
    """Tied and untied, in every layout, the memory is what was foreseen; what keeps its stored layout shares, with the same logits: float32
    without a packed copy, and bfloat16 where oneDNN does not take it."""
    limits = EngineLimits(threads=1, max_sequences=1)
    options = Options(device="cpu", dtype=dtype, packed_copy=packed_copy)
    found = {}
    for tied in (True, False):
        checkpoint = tiny_checkpoint("llama", tie_word_embeddings=tied)
        if not tied:
            checkpoint.tensors["lm_head.weight"] = checkpoint.tensors["model.embed_tokens.weight"]
        engine = load(checkpoint, options, SandboxContext(root=tmp_path, limits=limits))
        foreseen = predict(checkpoint, options, limits)
        assert foreseen is not None
        assert foreseen.weight_bytes == pytest.approx(engine.info.weight_bytes, rel=0.02)
        found[tied] = engine.info.weight_bytes, np.array(engine.step([Row(engine.open(), [5, 6, 7, 8], 0, "all")])[0])
        engine.shutdown()
    shared = found[False][0] - found[True][0]
    width = {"float32": 4, "bfloat16": 2}.get(dtype, 0)
    plain = stays_plain(torch.bfloat16 if width == 2 else torch.float32, torch.device("cpu"), packed_copy=packed_copy)
    assert shared == (width * tiny_checkpoint("llama").decoder.vocab_size * 64 if plain else 0)
    np.testing.assert_array_equal(found[True][1], found[False][1])
