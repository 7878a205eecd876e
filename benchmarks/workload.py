"""The input of every engine: the model in each format, prompts as token ids, and a text whose logits are compared."""

from __future__ import annotations

import math
import pydoc_data.topics
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt

import llmasos
from llmasos.compose.formats import open_model
from llmasos.system.sources import resolve
from llmasos_hookspecs import Checkpoint, as_float32
from llmasos_huggingface_folder.writer import CheckpointFolderWriter

PROMPT_TOKENS = 128
NEW_TOKENS = 64
QUALITY_TOKENS = 256
REQUESTS = 24
#: Seconds between two arrivals, on average: the requests are all there before half of them are answered.
_ARRIVAL_GAP = 0.1


@attrs.frozen
class TimedRequest:
    """A prompt, how many tokens its answer has, and when it arrives, in seconds from the first."""

    prompt: list[int]
    new_tokens: int
    arrival: float


@attrs.frozen
class Workload:
    """Paths and token ids.

    Attributes:
        gguf: the model as it is published, in Q4_1.
        q8_0: the same weights in Q8_0, which this project's exporter writes: for engines whose readers round the published ones again.
        dequantised: the same weights in float32, a Hugging Face folder.
        genai: what onnxruntime-genai's own builder makes of them, int8 in blocks of 32.
        prompts: lists of ``PROMPT_TOKENS`` ids, no two alike.
        text: ``QUALITY_TOKENS`` ids of English prose.
        linear_weights: weights of the linear layers, without embedding and head: each token of a prompt is multiplied by all of them.
        requests: ``REQUESTS`` of mixed lengths, in the order of their arrival.
    """

    gguf: str
    q8_0: str
    dequantised: str
    genai: str
    prompts: list[list[int]]
    text: list[int]
    linear_weights: int
    requests: list[TimedRequest] = attrs.field(
        converter=lambda given: [each if isinstance(each, TimedRequest) else TimedRequest(**each) for each in given]
    )


def prepare(cache: Path) -> Workload:
    """Fetch the model and make its other forms, once."""
    path = resolve("smollm2").path
    gguf = path if path.is_file() else next(path.rglob("*.gguf"))
    checkpoint = open_model(gguf)
    tokens = checkpoint.tokenizer().encode("\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)))
    prompts = np.array(tokens[: 32 * PROMPT_TOKENS]).reshape(32, PROMPT_TOKENS)
    return Workload(
        gguf=str(gguf),
        q8_0=str(_exported(gguf, cache / "smollm2-q8_0.gguf")),
        dequantised=str(_dequantised(checkpoint, cache / "dequantised")),
        genai=str(cache / "genai-int8"),
        prompts=prompts.tolist(),
        linear_weights=sum(math.prod(shape) for name, shape in checkpoint.decoder.tensor_shapes().items() if _is_linear(name, shape)),
        text=tokens[50_000 : 50_000 + QUALITY_TOKENS],
        requests=_requests(prompts),
    )


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and ".layers." in name


def _requests(prompts: npt.NDArray[np.int64]) -> list[TimedRequest]:
    """Answers of 8 to 160 tokens, most of them short (log-normal, as chat's are), to prompts of 16 to 128, at random times."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(16, PROMPT_TOKENS, REQUESTS, endpoint=True)
    answers = np.clip(rng.lognormal(np.log(40), 0.8, REQUESTS), 8, 160).astype(int)
    arrivals = np.cumsum(rng.exponential(_ARRIVAL_GAP, REQUESTS))
    return [
        TimedRequest(prompt=prompts[place, : lengths[place]].tolist(), new_tokens=int(answers[place]), arrival=float(arrivals[place]))
        for place in range(REQUESTS)
    ]


def _exported(gguf: Path, output: Path) -> Path:
    if not output.is_file():
        output.parent.mkdir(parents=True, exist_ok=True)
        llmasos.export(gguf, output, gguf="q8_0")
    return output


def _dequantised(checkpoint: Checkpoint, output: Path) -> Path:
    if not output.is_dir():
        output.parent.mkdir(parents=True, exist_ok=True)
        with CheckpointFolderWriter(checkpoint, output) as writer:
            for name in checkpoint.names():
                writer.add(name, as_float32(checkpoint.tensor(name)))
    return output
