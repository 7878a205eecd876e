"""SmolLM2 says the same on every backend: the tokens of transformers' own ``generate``, and its logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import llmasos
from llmasos.api.model import LanguageModel
from llmasos.compose.formats import open_model
from llmasos_hookspecs import as_float32

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.peer]

PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a little robot who",
    "Water boils at",
    "To be or not to be,",
    "My favourite recipe for pancakes starts with",
    "The three laws of thermodynamics are",
    "Dear Sir or Madam,\n\nI am writing to",
    "Q: What is 12 times 12?\nA:",
    "In 1969, the first human",
    "<|im_start|>user\nTell me a joke.<|im_end|>\n<|im_start|>assistant\n",
    "今天天气很好",
    "人工智能是",
    "北京是中国的首都，",
    "请把下面的句子翻译成英文：我喜欢读书。",
    "def fibonacci(n):\n",
    "import numpy as np\n\ndef softmax(x):\n",
    "SELECT name, COUNT(*) FROM",
    "fn main() {\n    let numbers = vec![1, 2, 3];\n",
    "The quick brown fox jumps over the lazy dog. " * 12 + "The quick",
    "Long ago, the mountains were higher than the clouds, and those who lived there told this story to their children. " * 8,
)
NEW = 16
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
def expected(smollm2_gguf: Path, prompts: list[list[int]]) -> tuple[list[list[int]], list[np.ndarray]]:
    """Greedy tokens after each prompt, and the logits [tokens, vocab] of the last two prompts, of transformers in float32."""
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
    with torch.inference_mode():
        given = [torch.tensor([prompt]) for prompt in prompts]
        # An end token would stop it early.
        options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        tokens = [model.generate(each, attention_mask=torch.ones_like(each), **options)[0, each.shape[1] :].tolist() for each in given]
        logits = [model(input_ids=each, use_cache=False).logits[0].numpy() for each in given[-2:]]
    return tokens, logits


@pytest.fixture(scope="module", params=FLOAT32)
def model(request: pytest.FixtureRequest, smollm2_gguf: Path) -> Iterator[LanguageModel]:
    pytest.importorskip(f"llmasos_backend_{request.param}")
    scheduler = {"use": "fifo", "max_sequences": len(PROMPTS)}
    with llmasos.load_model(smollm2_gguf, loader=FLOAT32[request.param], scheduler=scheduler, context_length=512) as loaded:
        yield loaded


def test_greedy_tokens(model: LanguageModel, prompts: list[list[int]], expected: tuple[list[list[int]], list[np.ndarray]]) -> None:
    """English, Chinese, code, chat and long prompts, decoded together, give the tokens of transformers' ``generate``."""
    answers = model.batch(PROMPTS, max_new_tokens=NEW, ignore_eos=True)
    assert [answer.prompt_tokens for answer in answers] == [len(prompt) for prompt in prompts]
    for text, answer, wanted in zip(PROMPTS, answers, expected[0], strict=True):
        assert list(answer.tokens) == wanted, text


def test_logits(model: LanguageModel, prompts: list[list[int]], expected: tuple[list[list[int]], list[np.ndarray]]) -> None:
    """The logits of whole prompts are within 2e-3 of transformers'."""
    for prompt, wanted in zip(prompts[-2:], expected[1], strict=True):
        assert np.abs(model.logits(prompt) - wanted).max() < 2e-3
