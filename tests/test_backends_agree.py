"""SmolLM2 says the same on every backend: the greedy tokens of transformers, and its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

import llmasos
from llmasos.api.model import LanguageModel
from llmasos.compose.formats import open_model
from llmasos_hookspecs import as_float32

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.peer]

#: `make test-long` has all prompts, and a long one of 190 tokens.
LONG = settings.default.max_examples >= 500
ALL_PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a little robot who",
    "Dear Sir or Madam,\n\nI am writing to",
    "Q: What is 12 times 12?\nA:",
    "<|im_start|>user\nTell me a joke.<|im_end|>\n<|im_start|>assistant\n",
    "今天天气很好",
    "北京是中国的首都，",
    "请把下面的句子翻译成英文：我喜欢读书。",
    "def fibonacci(n):\n",
    "SELECT name, COUNT(*) FROM",
    "fn main() {\n    let numbers = vec![1, 2, 3];\n",
    "The quick brown fox jumps over the lazy dog. " * 12 + "The quick",
    "Long ago, the mountains were higher than the clouds, and those who lived there told this story to their children. " * 8,
)
#: On each change a chat, and Chinese.
PROMPTS = ALL_PROMPTS if LONG else [ALL_PROMPTS[place] for place in (4, 6)]
NEW = 6 if LONG else 3
FLOAT32: dict[str, dict[str, Any]] = {
    "onnx": {"use": "onnx", "precision": "fp32"},
    "torch": {"use": "torch", "device": "cpu", "dtype": "float32"},
    "tf": {"use": "tf", "precision": "fp32"},
    "openvino": {"use": "openvino", "precision": "f32"},
}


@pytest.fixture(scope="module")
def prompts(smollm2_gguf: Path) -> list[list[int]]:
    tokenizer = open_model(smollm2_gguf).tokenizer()
    return [tokenizer.encode(text) for text in PROMPTS]


@pytest.fixture(scope="module")
def reference(smollm2_gguf: Path) -> Callable[[list[int]], np.ndarray]:
    """The logits [tokens, vocab] of transformers in float32; those of the same tokens are computed once for all backends."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    checkpoint = open_model(smollm2_gguf)
    keep = {key: value for key, value in checkpoint.config.items() if key not in ("quantization_config", "model_type", "architectures")}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**keep)).eval()
    weights = {name: torch.from_numpy(np.array(as_float32(checkpoint.tensor(name)))) for name in checkpoint.names()}
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its buffer is no weight, and was made on meta
    computed: dict[tuple[int, ...], np.ndarray] = {}

    def logits(tokens: list[int]) -> np.ndarray:
        if (key := tuple(tokens)) not in computed:
            with torch.inference_mode():
                computed[key] = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()
        return computed[key]

    return logits


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, smollm2_gguf: Path) -> Iterator[LanguageModel]:
    pytest.importorskip(f"llmasos_backend_{request.param}")
    scheduler = {"use": "fifo", "max_sequences": len(PROMPTS)}
    with llmasos.load_model(smollm2_gguf, loader=FLOAT32[request.param], scheduler=scheduler, context_length=512) as loaded:
        yield loaded


@pytest.mark.parametrize("model", FLOAT32, indirect=True)
def test_greedy_tokens(model: LanguageModel, prompts: list[list[int]], reference: Callable[[list[int]], np.ndarray]) -> None:
    """English, Chinese, code, chat and long prompts, decoded together, are continued by the likeliest token of transformers each time."""
    answers = model.batch(PROMPTS, max_new_tokens=NEW, ignore_eos=True)
    for text, prompt, answer in zip(PROMPTS, prompts, answers, strict=True):
        assert (answer.prompt_tokens, len(answer.tokens)) == (len(prompt), NEW), text
        likeliest = reference([*prompt, *answer.tokens[:-1]])[-NEW:].argmax(axis=1)
        assert list(answer.tokens) == likeliest.tolist(), text


#: TensorFlow traces all layers once more for logits of every token; its tokens above are those of its logits.
@pytest.mark.parametrize("model", [pytest.param(name, marks=[pytest.mark.long] * (name == "tf")) for name in FLOAT32], indirect=True)
def test_logits(model: LanguageModel, prompts: list[list[int]], reference: Callable[[list[int]], np.ndarray]) -> None:
    """The logits of a whole prompt, the last, are within 2e-3 of transformers'; `make test-long` has the one before it, too."""
    for prompt in prompts[-2 if LONG else -1 :]:
        assert np.abs(model.logits(prompt) - reference(prompt)).max() < 2e-3
