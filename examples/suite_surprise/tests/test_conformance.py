"""LLMasOS's own tests of a suite, run on this one."""

from llmasos_hookspecs.testing import SuiteConformance


class TestConformance(SuiteConformance):
    module = "suite_surprise"
    options = {"windows": 2, "length": 24}  # noqa: RUF012 - plain, as an author writes it
