"""The size of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from llmasos_hookspecs import Checkpoint, QuantizedTensor

_EMBEDDING: Final = "model.embed_tokens.weight"


@attrs.frozen(kw_only=True)
class Size:
    """Bytes.

    Attributes:
        disk: of all weight files.
        memory: of weights in the engine; None where no engine was loaded.
        matrices: of the linear weights and the head when packed; a tied head counts once.
        matrices_float16: of the same, were they float16.
    """

    disk: int
    memory: int | None
    matrices: int
    matrices_float16: int


def measure_size(checkpoint: Checkpoint, memory: int | None = None) -> Size:
    """Measure a checkpoint; reads every matrix."""
    names = set(checkpoint.names())
    tied = "lm_head.weight" not in names
    matrices = plain = 0
    for name in names:
        if len(checkpoint.shape(name)) != 2 or (name == _EMBEDDING and not tied):
            continue
        tensor = checkpoint.tensor(name)
        matrices += tensor.nbytes
        plain += 2 * (tensor.codes.size if isinstance(tensor, QuantizedTensor) else tensor.size)
    return Size(disk=_disk(checkpoint.path), memory=memory, matrices=matrices, matrices_float16=plain)


def _disk(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.iterdir() if file.suffix in (".safetensors", ".gguf", ".bin"))
