"""The accelerator against the contract, with every method."""

from __future__ import annotations

from typing import ClassVar

from llmasos_hookspecs.testing import AcceleratorConformance


class TestInt8(AcceleratorConformance):
    module = "llmasos_accel_quant"
    cases = ("llama", "llama-rope3-tied", "llama-biases")


class TestInt4GPTQ(AcceleratorConformance):
    module = "llmasos_accel_quant"
    cases = ("llama-biases", "qwen2")
    options: ClassVar = {"bits": 4, "method": "gptq", "windows": 4, "length": 64}


class TestInt4AWQ(AcceleratorConformance):
    module = "llmasos_accel_quant"
    cases = ("llama-biases", "qwen3")
    options: ClassVar = {"bits": 4, "group": 16, "symmetric": False, "method": "awq", "windows": 4, "length": 64}
