"""The source against the contract."""

from llmasos_hookspecs.testing import SourceConformance


class TestHuggingFace(SourceConformance):
    module = "llmasos_source_hf"
