"""The loader passes the conformance kit, in float32 and in 8 bits."""

from typing import ClassVar

import pytest

from llmasos_hookspecs.testing import LoaderConformance


class TestConformance(LoaderConformance):
    """In floats and in codes; test_tf_families.py has the decoders whose graphs differ, and tests/test_layers_by_kernels.py two of them in
    codes."""

    module = "llmasos_backend_tf"
    cases = path_cases = ("llama", "llama-q4-minimums")


@pytest.mark.long
class TestEveryCase(LoaderConformance):
    module = "llmasos_backend_tf"


@pytest.mark.long  # test_tf_families.py lays codes out, and the kit above computes those of files
class TestInt8(LoaderConformance):
    module = "llmasos_backend_tf"
    options: ClassVar[dict[str, str]] = {"precision": "int8"}
    cases = ("llama", "llama-q8")
