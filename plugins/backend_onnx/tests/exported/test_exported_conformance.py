"""Exported decoders keep the engine contract as the loader's own do."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import attrs
import pytest

from llmasos_hookspecs.testing import LoaderConformance, TinyCheckpoint, tiny_checkpoint

from .conftest import GENAI, Style, write_export, write_genai


class Exported(LoaderConformance):
    """The standard tests over an export of the tiny llama."""

    module = "llmasos_backend_onnx"
    cases = ("llama",)
    style: ClassVar[Style] = Style()

    @classmethod
    def make_checkpoint(cls, case: str, folder: Path) -> TinyCheckpoint:
        model = tiny_checkpoint(case)
        if cls.style.attention == "gqa":
            return attrs.evolve(model, path=write_genai(model, folder, cls.style), format="onnx_genai")
        return attrs.evolve(model, path=write_export(model, folder, cls.style), format="onnx")


class TestGrowing(Exported):
    """Keys and values that come back grown, batched by padding."""


@pytest.mark.long  # test_exported_logits.py has its logits in pieces and beside others
class TestInPlace(Exported):
    """GroupQueryAttention over a shared buffer, from a folder for onnxruntime-genai."""

    style = GENAI


@pytest.mark.long  # test_exported_logits.py has the logits of these two
class TestTwoFiles(Exported):
    """A graph for the first tokens, and one that takes a single token behind a cache."""

    style = Style(form="two", causal_behind=False)


@pytest.mark.long
class TestWithoutCache(Exported):
    """Logits only."""

    style = Style(cache=False)
