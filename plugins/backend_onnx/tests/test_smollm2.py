"""The real model in float32 against transformers, which reads the file itself; ``tests/test_backends_agree.py`` has the same model of all
loaders on each change."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from llmasos.compose.formats import open_model
from llmasos_hookspecs import Row

pytestmark = [pytest.mark.model, pytest.mark.peer, pytest.mark.long]


def test_logits_are_those_of_transformers(smollm2_gguf: Path, start) -> None:
    """Prefill, chunked prefill and decode: the largest difference of any logit is under 2e-3."""
    checkpoint = open_model(smollm2_gguf)
    tokens = checkpoint.tokenizer().encode(pydoc_data.topics.topics["assert"] + "今天天气很好 🙂")[:96]
    peer = transformers.AutoModelForCausalLM.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = peer(torch.tensor([tokens])).logits[0].numpy()
    engine = start(checkpoint, max_sequences=2, context_length=128)
    whole, chunked = engine.open(), engine.open()
    assert np.abs(engine.step([Row(whole, tokens, 0, "all")])[0] - expected).max() < 2e-3
    for place in (0, 40):
        found = engine.step([Row(chunked, tokens[place : place + 40], place, "all")])[0]
        assert np.abs(found - expected[place : place + 40]).max() < 2e-3
    for place in range(80, len(tokens)):
        found = engine.step([Row(chunked, [tokens[place]], place)])[0]
        assert np.abs(found[0] - expected[place]).max() < 2e-3
