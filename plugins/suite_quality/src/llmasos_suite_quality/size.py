"""LLMasOS suite ``size``: bytes on disk, in memory, and of the packed matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from llmasos_hookspecs import Checkpoint, Component, Figure, MeasuredModel, QuantizedTensor, SuiteResult, hookimpl

_EMBEDDING: Final = "model.embed_tokens.weight"


@attrs.frozen(kw_only=True)
class Size:
    """Bytes.

    Attributes:
        disk: of all weight files.
        matrices: of the linear weights and the head when packed; a tied head counts once.
        matrices_float16: of the same, were they float16.
    """

    disk: int
    matrices: int
    matrices_float16: int


def measure_size(checkpoint: Checkpoint) -> Size:
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
    return Size(disk=_disk(checkpoint.path), matrices=matrices, matrices_float16=plain)


def _disk(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    files = path.iterdir() if path.is_dir() else ()  # a checkpoint that was never written has none
    return sum(file.stat().st_size for file in files if file.suffix in (".safetensors", ".gguf", ".bin"))


class SizeSuite:
    """Implements ``llmasos_hookspecs.Suite``."""

    def measure(self, model: MeasuredModel) -> SuiteResult:
        size = measure_size(model.checkpoint)
        memory = model.engine().info.weight_bytes
        return SuiteResult(
            figures=(
                Figure(name="disk", value=size.disk, unit="B", better="lower", digits=1),
                Figure(name="memory", value=memory, unit="B", better="lower", digits=1),
            ),
            facts={"matrices": size.matrices, "matrices_float16": size.matrices_float16},
        )


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Bytes of the weights, on disk and in memory.", examples=("llmasos evaluate smollm2 --suite size",))


@hookimpl
def llmasos_create_suite() -> SizeSuite:
    return SizeSuite()
