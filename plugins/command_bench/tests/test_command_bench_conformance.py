"""LLMasOS's own tests of a command, run on this one."""

from llmasos_hookspecs.testing import CommandConformance

SHORT = ("--prompt-tokens", "24", "--new-tokens", "2", "--rounds", "1", "--batch", "2")


class TestConformance(CommandConformance):
    module = "llmasos_command_bench"
    examples = (SHORT, ("one", "two", "--loader", "onnx", *SHORT))
