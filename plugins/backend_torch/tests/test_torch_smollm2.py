"""The real SmolLM2: the tokens and logits of transformers in float32, and the cost of lower precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from llmasos.runtime.checkpoint import open_checkpoint
from llmasos_backend_torch import Options
from llmasos_backend_torch.loading import load
from llmasos_hookspecs import Checkpoint, Engine, EngineLimits, Row, as_float32
from llmasos_hookspecs.testing.sandbox import SandboxContext

pytestmark = pytest.mark.model

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


@pytest.fixture(scope="module")
def checkpoint(smollm2_gguf: Path) -> Checkpoint:
    return open_checkpoint(smollm2_gguf)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> PreTrainedModel:
    """transformers' own Llama over the same weights in float32."""
    keep = {key: value for key, value in checkpoint.config.items() if key not in ("quantization_config", "model_type", "architectures")}
    model = LlamaForCausalLM(LlamaConfig(**keep)).eval()
    weights = {name: torch.from_numpy(np.array(as_float32(checkpoint.tensor(name)))) for name in checkpoint.names()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    model.tie_weights()
    return model


@pytest.fixture
def engine(checkpoint: Checkpoint, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**options: str) -> Engine:
        context = SandboxContext(root=tmp_path, limits=EngineLimits(threads=2, max_sequences=20))
        made.append(load(checkpoint, Options(**{"device": "cpu", **options}), context))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()


def greedy(engine: Engine, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Greedy tokens of all prompts, decoded in one batch."""
    slots = [engine.open() for _ in prompts]
    held = [len(prompt) for prompt in prompts]
    logits = [np.array(engine.step([Row(slot, prompt, 0)])[0]) for slot, prompt in zip(slots, prompts, strict=True)]
    tokens = [[int(row[0].argmax())] for row in logits]
    for _ in range(count - 1):
        rows = [Row(slot, [found[-1]], at) for slot, found, at in zip(slots, tokens, held, strict=True)]
        for found, row in zip(tokens, engine.step(rows), strict=True):
            found.append(int(row[0].argmax()))
        held = [at + 1 for at in held]
    for slot in slots:
        engine.close(slot)
    return tokens


@pytest.mark.slow
@pytest.mark.peer
def test_greedy_tokens_of_twenty_prompts(checkpoint: Checkpoint, reference: PreTrainedModel, engine: Callable[..., Engine]) -> None:
    """English, Chinese, code, chat and long prompts give the tokens of transformers' generate, decoded in one batch of 20."""
    prompts = [checkpoint.tokenizer().encode(text) for text in PROMPTS]
    got = greedy(engine(dtype="float32"), prompts, NEW)
    for text, prompt, found in zip(PROMPTS, prompts, got, strict=True):
        with torch.inference_mode():
            given = torch.tensor([prompt])
            whole = reference.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0,
                eos_token_id=None,
            )  # fmt: skip
        assert found == whole[0, len(prompt) :].tolist(), text


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("implementation", ["fused", "transformers"])
def test_logits_in_float32(implementation: str, checkpoint: Checkpoint, reference: PreTrainedModel, engine: Callable[..., Engine]) -> None:
    """Prefill and chunked decode stay within 2e-3 of transformers' logits."""
    tokens = checkpoint.tokenizer().encode(PROMPTS[18] + PROMPTS[13])[:80]
    wanted = forward(reference, tokens)
    made = engine(dtype="float32", implementation=implementation)
    slot = made.open()
    got = [np.array(made.step([Row(slot, tokens[at : at + n], at, "all")])[0]) for at, n in ((0, 50), (50, 1), (51, 1), (52, 28))]
    assert np.abs(np.concatenate(got) - wanted).max() < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.005), ("int8", 0.01), ("int4", 0.01)])
def test_divergence_of_lower_precision(
    dtype: str, most: float, checkpoint: Checkpoint, reference: PreTrainedModel, engine: Callable[..., Engine]
) -> None:
    """KL divergence to float32 of prefill and of decode. The file's own 4-bit codes lose little more than bfloat16 does."""
    made = engine(dtype=dtype)
    tokens = checkpoint.tokenizer().encode(PROMPTS[19] + PROMPTS[10] + PROMPTS[15])[:160]
    wanted = forward(reference, tokens)
    slot = made.open()
    whole = np.array(made.step([Row(slot, tokens, 0, "all")])[0])
    made.truncate(slot, 100)
    single = np.concatenate([np.array(made.step([Row(slot, [tokens[at]], at)])[0]) for at in range(100, 160)])
    assert divergence(wanted, whole) < most
    assert divergence(wanted[100:], single) < most


def forward(model: PreTrainedModel, tokens: list[int]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()


def divergence(wanted: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> float:
    p, q = (torch.log_softmax(torch.tensor(logits).double(), -1) for logits in (wanted, got))
    return float((p.exp() * (p - q)).sum(-1).mean())
