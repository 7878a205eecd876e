"""Every family that ``DecoderConfig`` describes, with each of its switches, equals transformers in float32 on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
import transformers

from llmasos_backend_onnx import Options
from llmasos_backend_onnx.engine import OnnxEngine
from llmasos_hookspecs import DecoderConfig, Row
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint
from llmasos_hookspecs.testing.families import FAMILY_CASES, FAMILY_SIZES, ROPE_CASES

Start = Callable[..., OnnxEngine]

#: Tokens of the whole context.
CONTEXT: Final = 80
TOKENS: Final = [int(token) for token in np.random.default_rng(0).integers(3, 131, CONTEXT)]
OTHERS: Final = [int(token) for token in np.random.default_rng(1).integers(3, 131, CONTEXT)]
PROMPT: Final = CONTEXT - 64


class Made:
    """A tiny random model of transformers, every parameter random, and the same weights as a checkpoint."""

    def __init__(self, kind: str, changes: Mapping[str, Any]) -> None:
        torch.manual_seed(0)
        if kind == "phi3" and "rope_parameters" in changes:
            changes = {**changes, "original_max_position_embeddings": 16}
        config = transformers.AutoConfig.for_model(kind, **{**FAMILY_SIZES, "max_position_embeddings": CONTEXT, **changes})
        self.model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        for parameter in self.model.parameters():
            noise = torch.randn_like(parameter)
            parameter.data = parameter.data + 0.2 * noise if parameter.dim() == 1 else 0.15 * noise
        decoder = DecoderConfig.from_dict(config.to_dict())
        # Files call the head of some models otherwise than the model in memory does.
        state = {name.replace("lm_head", decoder.names.head): tensor.numpy() for name, tensor in self.model.state_dict().items()}
        self.checkpoint = TinyCheckpoint(config=config.to_dict(), tensors={name: state[name] for name in decoder.tensor_shapes()})

    def logits(self, tokens: list[int]) -> np.ndarray:
        with torch.inference_mode():
            return self.model(torch.tensor([tokens])).logits[0].numpy()

    def greedy(self, tokens: list[int]) -> np.ndarray:
        """What transformers would say at each place of its own greedy text, if ``tokens`` behind the prompt is that."""
        return self.logits(tokens).argmax(-1)


def check(got: np.ndarray, want: np.ndarray) -> None:
    assert np.linalg.norm(got - want) <= 2e-6 * np.linalg.norm(want)


def prefill(engine: OnnxEngine, tokens: list[int], *sizes: int) -> np.ndarray:
    """Logits of a prompt that comes in chunks of these sizes, then of the rest."""
    slot, at, found = engine.open(), 0, []
    for size in (*sizes, len(tokens) - sum(sizes)):
        found.append(engine.step([Row(slot, tokens[at : at + size], at, "all")])[0].copy())
        at += size
    engine.close(slot)
    return np.concatenate(found)


def greedy(engine: OnnxEngine) -> list[int]:
    """The prompt and the 64 tokens that follow it, one by one, to the end of the context."""
    slot, text = engine.open(), TOKENS[:PROMPT]
    logits = engine.step([Row(slot, text, 0)])[0]
    for at in range(PROMPT, CONTEXT):
        text = [*text, int(logits[-1].argmax())]
        logits = engine.step([Row(slot, text[-1:], at)])[0]
    engine.close(slot)
    return text


def batch(engine: OnnxEngine, *prompts: list[int]) -> list[np.ndarray]:
    """Logits of prompts that are computed side by side, first to different lengths, then token by token."""
    slots = [engine.open() for _ in prompts]
    starts = [5 + 13 * index for index in range(len(prompts))]
    rows = [Row(slot, prompt[:start], 0, "all") for slot, prompt, start in zip(slots, prompts, starts, strict=True)]
    found = [[logits.copy()] for logits in engine.step(rows)]
    for step in range(CONTEXT - starts[-1]):
        rows = [Row(slot, [prompt[s + step]], s + step) for slot, prompt, s in zip(slots, prompts, starts, strict=True)]
        for logits, more in zip(found, engine.step(rows), strict=True):
            logits.append(more.copy())
    for slot in slots:
        engine.close(slot)
    return [np.concatenate(logits) for logits in found]


def name(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(value) or "plain"


@pytest.mark.parametrize(("kind", "changes"), FAMILY_CASES, ids=name)
def test_a_family_equals_transformers(kind: str, changes: dict[str, Any], start: Start) -> None:
    """Over the whole context: in one piece, in chunks, in a batch; and the same greedy text."""
    made = Made(kind, changes)
    engine, want = start(made.checkpoint), made.logits(TOKENS)
    check(prefill(engine, TOKENS), want)
    check(prefill(engine, TOKENS, 7, 1, 22), want)
    first, second = batch(engine, OTHERS, TOKENS)
    check(second, want)
    check(first, made.logits(OTHERS)[: len(first)])
    text = greedy(engine)
    assert text[PROMPT:] == made.greedy(text)[PROMPT - 1 : -1].tolist()
