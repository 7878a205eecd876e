"""The accelerator against the contract, with every method."""

from __future__ import annotations

from typing import ClassVar

from llmasos_hookspecs.testing import AcceleratorConformance


class TestLayers(AcceleratorConformance):
    module = "llmasos_accel_prune"
    cases = ("llama", "llama-rope3-tied", "llama-biases")
    options: ClassVar = {"method": "layers", "drop": 1, "windows": 4, "length": 64}


class TestMLP(AcceleratorConformance):
    module = "llmasos_accel_prune"
    cases = ("llama-biases", "mistral")
    options: ClassVar = {"method": "mlp", "width": 64, "windows": 4, "length": 64}


class TestMagnitude(AcceleratorConformance):
    module = "llmasos_accel_prune"
    cases = ("qwen3",)
    options: ClassVar = {"method": "magnitude"}


class TestWanda(AcceleratorConformance):
    module = "llmasos_accel_prune"
    cases = ("qwen3",)
    options: ClassVar = {"method": "wanda", "windows": 4, "length": 64}


class TestSparseGPT(AcceleratorConformance):
    module = "llmasos_accel_prune"
    cases = ("qwen3",)
    options: ClassVar = {"method": "sparsegpt", "pattern": "2:4", "windows": 4, "length": 64}
