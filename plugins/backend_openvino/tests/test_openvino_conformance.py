"""The loader passes the conformance kit, in float32 and in bfloat16."""

from typing import ClassVar

import pytest

from llmasos_backend_openvino.cpu import has_bfloat16
from llmasos_hookspecs.testing import LoaderConformance


class TestConformance(LoaderConformance):
    module = "llmasos_backend_openvino"
    options: ClassVar[dict[str, str]] = {"precision": "f32"}


@pytest.mark.skipif(not has_bfloat16(), reason="OpenVINO computes no bfloat16 on this CPU")
class TestBfloat16(LoaderConformance):
    module = "llmasos_backend_openvino"
    options: ClassVar[dict[str, str]] = {"precision": "bf16"}
    cases = ("llama", "llama-q4-minimums")
