"""The loader passes the conformance kit, in float32 and in 8 bits."""

from typing import ClassVar

import pytest

from llmasos_hookspecs.testing import LoaderConformance


class TestConformance(LoaderConformance):
    """The decoders whose graphs differ most; test_tf_families.py has more of them."""

    module = "llmasos_backend_tf"
    cases = ("llama", "llama-q4-minimums", "gemma2", "phi")
    path_cases = ("llama", "llama-q4-minimums")


@pytest.mark.long
class TestEveryCase(LoaderConformance):
    module = "llmasos_backend_tf"


@pytest.mark.long  # test_tf_families.py lays codes out, and the kit above computes those of files
class TestInt8(LoaderConformance):
    module = "llmasos_backend_tf"
    options: ClassVar[dict[str, str]] = {"precision": "int8"}
    cases = ("llama", "llama-q8")
