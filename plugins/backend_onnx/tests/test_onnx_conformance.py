"""The loader passes the conformance kit at every precision; in ways that widen this, in ``make test-long``."""

from __future__ import annotations

from typing import ClassVar

import pytest

from llmasos_hookspecs.testing import TRAIT_CASES, EncoderConformance, LoaderConformance


class TestConformance(LoaderConformance):
    """The decoders whose graphs differ most; test_families.py has all of them."""

    module = "llmasos_backend_onnx"
    cases = ("llama", "llama-q4-minimums", "llama-q8", "phi")


@pytest.mark.long
class TestEveryCase(LoaderConformance):
    module = "llmasos_backend_onnx"


@pytest.mark.long  # test_families.py computes in float32
class TestFloat32(LoaderConformance):
    module = "llmasos_backend_onnx"
    options: ClassVar = {"precision": "fp32"}
    cases = ("llama-q4-minimums", "qwen3")


@pytest.mark.long  # as test_exact_drafts.py does in 8 bits
class TestInt8(LoaderConformance):
    module = "llmasos_backend_onnx"
    options: ClassVar = {"precision": "int8"}
    cases = ("llama",)


@pytest.mark.long  # test_exact_drafts.py computes in 4 bits
class TestInt4(LoaderConformance):
    module = "llmasos_backend_onnx"
    options: ClassVar = {"precision": "int4"}
    cases = ("llama",)


@pytest.mark.long
class TestOwnKernels(LoaderConformance):
    """Without the kernels of other packages; prompts are rounded as decode is: on a processor with AMX ``auto`` gives them 16 bits, which
    test_quantized.py compares."""

    module = "llmasos_backend_onnx"
    options: ClassVar = {"kernels": "onnx", "prefill_activations": "int8"}
    cases = ("llama-q4-minimums", "llama-q8")


@pytest.mark.long  # test_exact_drafts.py computes without them, too
class TestInexactDrafts(LoaderConformance):
    module = "llmasos_backend_onnx"
    options: ClassVar = {"exact_drafts": False}
    cases = ("llama",)


@pytest.mark.long  # test_families.py computes both in pieces and batches, and the kit above what engines share
class TestTraits(LoaderConformance):
    """Decoders beyond the plain form on every path: windows and capped scores, and layers that are computed side by side."""

    module = "llmasos_backend_onnx"
    cases = path_cases = ("gemma2", "gpt_neox")


@pytest.mark.long
class TestEveryTrait(LoaderConformance):
    module = "llmasos_backend_onnx"
    cases = path_cases = tuple(TRAIT_CASES)


@pytest.mark.long
class TestTraitsInt8(LoaderConformance):
    module = "llmasos_backend_onnx"
    options: ClassVar = {"precision": "int8"}
    cases = tuple(TRAIT_CASES)
    path_cases = cases


class TestEncoders(EncoderConformance):
    module = "llmasos_backend_onnx"
