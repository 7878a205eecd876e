"""The loader passes the conformance kit, in float32 and in bfloat16."""

from typing import ClassVar

from llmasos_hookspecs.testing import LoaderConformance


class TestConformance(LoaderConformance):
    module = "llmasos_backend_openvino"
    options: ClassVar[dict[str, str]] = {"precision": "f32"}


class TestBfloat16(LoaderConformance):
    module = "llmasos_backend_openvino"
    options: ClassVar[dict[str, str]] = {"precision": "bf16"}
    cases = ("llama", "llama-q4-minimums")
