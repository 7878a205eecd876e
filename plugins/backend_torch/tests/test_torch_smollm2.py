"""The real SmolLM2: the logits of transformers in float32, and the cost of lower precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import llmasos
from llmasos.compose.formats import open_model
from llmasos_backend_torch import Options
from llmasos_backend_torch.loading import load
from llmasos_hookspecs import Checkpoint, Engine, EngineLimits, Row, as_float32
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_hookspecs.testing.sandbox import SandboxContext

pytestmark = pytest.mark.model

TEXT = "Long ago, the mountains were higher than the clouds. 今天天气很好 import numpy as np\n\ndef softmax(x):\n" * 8


@pytest.fixture(scope="module")
def checkpoint(smollm2_gguf: Path) -> Checkpoint:
    return open_model(smollm2_gguf)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> PreTrainedModel:
    """transformers' own Llama over the same weights in float32."""
    keep = {key: value for key, value in checkpoint.config.items() if key not in ("quantization_config", "model_type", "architectures")}
    with torch.device("meta"):  # no time for random weights
        model = LlamaForCausalLM(LlamaConfig(**keep)).eval()
    weights = {name: torch.from_numpy(np.array(as_float32(checkpoint.tensor(name)))) for name in checkpoint.names()}
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its buffer is no weight, and was made on meta
    return model


@pytest.fixture
def engine(checkpoint: Checkpoint, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**options: str) -> Engine:
        context = SandboxContext(root=tmp_path, limits=EngineLimits(threads=1, max_sequences=1))
        made.append(load(checkpoint, Options(**{"device": "cpu", **options}), context))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()


@pytest.mark.long  # tests/test_backends_agree.py compares the fused forward on each change
@pytest.mark.peer
@pytest.mark.parametrize("implementation", ["fused", "transformers"])
def test_logits_in_float32(implementation: str, checkpoint: Checkpoint, reference: PreTrainedModel, engine: Callable[..., Engine]) -> None:
    """Prefill and chunked decode stay within 2e-3 of transformers' logits."""
    tokens = checkpoint.tokenizer().encode(TEXT)[:32]
    wanted = forward(reference, tokens)
    made = engine(dtype="float32", implementation=implementation)
    slot = made.open()
    got = [np.array(made.step([Row(slot, tokens[at : at + n], at, "all")])[0]) for at, n in ((0, 20), (20, 1), (21, 1), (22, 10))]
    assert np.abs(np.concatenate(got) - wanted).max() < 2e-3


@pytest.mark.slow
@pytest.mark.long  # test_torch_codes.py and test_torch_architectures.py compute in them on each change
@pytest.mark.parametrize(
    ("dtype", "most"),
    [("bfloat16", 0.005), ("int8", 0.01), ("int4", 0.01)],
)
def test_divergence_of_lower_precision(
    dtype: str, most: float, checkpoint: Checkpoint, reference: PreTrainedModel, engine: Callable[..., Engine]
) -> None:
    """KL divergence to float32 of prefill and of decode. The file's own 4-bit codes lose little more than bfloat16 does."""
    made = engine(dtype=dtype)
    tokens = checkpoint.tokenizer().encode(TEXT)[:56]
    wanted = forward(reference, tokens)
    slot = made.open()
    whole = np.array(made.step([Row(slot, tokens, 0, "all")])[0])
    made.truncate(slot, 48)
    single = np.concatenate([np.array(made.step([Row(slot, [tokens[at]], at)])[0]) for at in range(48, 56)])
    assert divergence(wanted, whole) < most
    assert divergence(wanted[48:], single) < most


def forward(model: PreTrainedModel, tokens: list[int]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()


def divergence(wanted: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> float:
    p, q = (torch.log_softmax(torch.tensor(logits).double(), -1) for logits in (wanted, got))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.fixture
def model_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "tiny":
        return tiny_checkpoint("llama").write(tmp_path / "model").path
    found: Path = request.getfixturevalue("smollm2_gguf")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("model_folder", ["tiny", pytest.param("smollm2", marks=pytest.mark.long)], indirect=True)
def test_texts_are_the_same_wherever_tokens_are_drawn(model_folder: Path) -> None:
    """Greedy, sampled and penalised texts, together in a batch, are the same whether the engine or the runtime draws their tokens."""
    ways: list[dict[str, Any]] = [
        {},
        {"temperature": 0.8, "seed": 1},
        {"temperature": 1.0, "top_p": 0.9, "seed": 2},
        {"temperature": 1.2, "top_k": 40, "min_p": 0.02, "seed": 3},
        {"temperature": 0.9, "repetition_penalty": 1.2, "frequency_penalty": 0.3, "seed": 4},
    ]
    texts = {}
    for sampling in ("host", "device"):
        loader = {"use": "torch", "device": "cpu", "dtype": "float32", "sampling": sampling}
        model = llmasos.load_model(model_folder, loader=loader, threads=2, context_length=256)
        with model, ThreadPoolExecutor(len(ways)) as pool:
            asked = [pool.submit(model.generate_text, TEXT[:52], max_new_tokens=12, ignore_eos=True, **way) for way in ways]
            texts[sampling] = [each.result() for each in asked]
    assert texts["device"] == texts["host"]
    assert len(set(texts["host"])) == len(ways), "The ways of sampling cannot be told apart."
