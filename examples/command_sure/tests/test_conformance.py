"""LLMasOS's own tests of a command, run on this one."""

from llmasos_hookspecs.testing import CommandConformance


class TestConformance(CommandConformance):
    module = "command_sure"
    examples = (("The sky is blue.",), ("Two words", "--model", "smollm2"))
