"""LLMasOS's own tests of a format, run on this one."""

from llmasos_hookspecs.testing import FormatConformance


class TestConformance(FormatConformance):
    module = "format_npz"
