"""The loader passes the conformance kit, in float32 and in 8 bits."""

from typing import ClassVar

from llmasos_hookspecs.testing import LoaderConformance


class TestConformance(LoaderConformance):
    module = "llmasos_backend_tf"


class TestInt8(LoaderConformance):
    module = "llmasos_backend_tf"
    options: ClassVar[dict[str, str]] = {"precision": "int8"}
    cases = ("llama", "llama-q8")
