"""What every engine is given: the model in each form, prompts as token ids, and a text whose predictions are compared."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import attrs
import numpy as np

from llmasos.runtime.checkpoint import open_checkpoint
from llmasos.runtime.checkpoint.writer import CheckpointFolderWriter
from llmasos.system.sources import resolve
from llmasos_hookspecs import Checkpoint, as_float32

PROMPT_TOKENS = 128
NEW_TOKENS = 64
QUALITY_TOKENS = 256


@attrs.frozen
class Workload:
    """Paths and token ids.

    Attributes:
        gguf: the model as it is published.
        dequantised: the same weights in float32, a Hugging Face folder.
        genai: what onnxruntime-genai's own builder makes of them, int8 in blocks of 32.
        prompts: lists of ``PROMPT_TOKENS`` ids, no two alike.
        text: ``QUALITY_TOKENS`` ids of English prose.
    """

    gguf: str
    dequantised: str
    genai: str
    prompts: list[list[int]]
    text: list[int]


def prepare(cache: Path) -> Workload:
    """Fetch the model and make its other forms, once."""
    path = resolve("smollm2").path
    gguf = path if path.is_file() else next(path.rglob("*.gguf"))
    checkpoint = open_checkpoint(gguf)
    tokens = checkpoint.tokenizer().encode("\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)))
    prompts = np.array(tokens[: 32 * PROMPT_TOKENS]).reshape(32, PROMPT_TOKENS)
    return Workload(
        gguf=str(gguf),
        dequantised=str(_dequantised(checkpoint, cache / "dequantised")),
        genai=str(cache / "genai-int8"),
        prompts=prompts.tolist(),
        text=tokens[50_000 : 50_000 + QUALITY_TOKENS],
    )


def _dequantised(checkpoint: Checkpoint, output: Path) -> Path:
    if not output.is_dir():
        output.parent.mkdir(parents=True, exist_ok=True)
        with CheckpointFolderWriter(checkpoint, output) as writer:
            for name in checkpoint.names():
                writer.add(name, as_float32(checkpoint.tensor(name)))
    return output
