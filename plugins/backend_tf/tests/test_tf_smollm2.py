"""The real model: the same tokens as transformers, and hardly any loss in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos_hookspecs import Engine, EngineLimits, Row
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext

pytestmark = [pytest.mark.model, pytest.mark.slow]

PROMPTS = (
    "The capital of France is",
    "今天天气很好，",
    "def fibonacci(n):\n    ",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
    "The history of the city is long. " * 20,
)


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
    context = SandboxContext(root=root, limits=EngineLimits(threads=2, max_sequences=len(PROMPTS), context_length=512))
    engine: Engine = plugin.call("llmasos_load", checkpoint=checkpoint, options=plugin.options(precision=precision), context=context)
    return engine


def greedy(engine: Engine, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """All prompts in one batch."""
    slots = [engine.open() for _ in prompts]
    fed: list[list[int]] = [list(prompt) for prompt in prompts]
    out: list[list[int]] = [[] for _ in prompts]
    lengths = [0] * len(prompts)
    for _ in range(count):
        logits = engine.step([Row(slot, tokens, length) for slot, tokens, length in zip(slots, fed, lengths, strict=True)])
        for i, row in enumerate(logits):
            lengths[i] += len(fed[i])
            fed[i] = [int(row[-1].argmax())]
            out[i] += fed[i]
    for slot in slots:
        engine.close(slot)
    return out


def test_greedy_tokens_are_those_of_transformers(checkpoint: Any, float_engine: Engine) -> None:
    """Text, Chinese, code, chat and a long prompt, decoded in one batch in float32, give transformers' own tokens."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**dict(checkpoint.config))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names()}
    arrays = {name: t.dequantize() if hasattr(t, "dequantize") else np.array(t, np.float32) for name, t in tensors.items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffer is no weight, and was made on meta
    prompts = [checkpoint.tokenizer().encode(prompt) for prompt in PROMPTS]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        # An end token would stop it early.
        out = model.eval().generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        expected.append(out[0, len(prompt) :].tolist())
    assert greedy(float_engine, prompts, 12) == expected


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
