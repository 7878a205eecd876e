"""The source against the contract."""

from llmasos_hookspecs.testing import SourceConformance


class TestPyPI(SourceConformance):
    module = "llmasos_source_pypi"
