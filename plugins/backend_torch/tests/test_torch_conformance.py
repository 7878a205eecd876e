"""The loader kit."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from llmasos_hookspecs.testing import EncoderConformance
from llmasos_hookspecs.testing.encoder_decoder import EncoderDecoderConformance
from llmasos_hookspecs.testing.loader import LoaderConformance

#: Of each way of computing: the fused forward, transformers' layers over our slots, and codes; test_torch_architectures.py has windows.
ON_EACH_CHANGE = ("llama", "llama-q4-minimums", "gemma2", "llama-q8")


class TestConformance(LoaderConformance):
    module = "llmasos_backend_torch"
    cases = ON_EACH_CHANGE


@pytest.mark.long
class TestEveryCase(LoaderConformance):
    module = "llmasos_backend_torch"


@pytest.mark.long
class TestOwnKernels(LoaderConformance):
    """Without the kernels of other packages."""

    module = "llmasos_backend_torch"
    options: ClassVar[dict[str, Any]] = {"kernels": "torch"}
    cases = ("llama-q4-minimums",)


class TestEncoderDecoders(EncoderDecoderConformance):
    module = "llmasos_backend_torch"


@pytest.mark.long  # test_torch_drawing.py draws in every way of computing
class TestDrawingTokens(LoaderConformance):
    """The same kit where the engine draws tokens itself, as it does on a GPU."""

    module = "llmasos_backend_torch"
    options: ClassVar[dict[str, Any]] = {"sampling": "device"}
    cases = path_cases = ("llama",)


@pytest.mark.long
class TestDrawingTokensOfWindows(LoaderConformance):
    module = "llmasos_backend_torch"
    options: ClassVar[dict[str, Any]] = {"sampling": "device"}
    cases = path_cases = ("mistral",)


class TestEncoders(EncoderConformance):
    module = "llmasos_backend_torch"
