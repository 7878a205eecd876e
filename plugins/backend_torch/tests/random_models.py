"""Random models of transformers, and when logits are theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmasos_hookspecs.testing.tokenizer import tokenizer_files


def randomize(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Random values that put logits far apart."""
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.randn_like(parameter)
            parameter.copy_(noise * 0.3) if parameter.dim() > 1 else parameter.add_(noise * 0.1)


def write_plain_tokenizer(folder: Path) -> None:
    """The byte tokenizer without a chat template."""
    files = tokenizer_files()
    files["tokenizer_config.json"].pop("chat_template")
    for file, contents in files.items():
        (folder / file).write_text(json.dumps(contents))


def close(got: Any, expected: Any) -> bool:
    """Whether logits in float32 are those of transformers, as far as the order of sums lets them."""
    return got.shape == expected.shape and bool(np.abs(got - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max()))
