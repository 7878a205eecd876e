"""The targets, by name. Each module's frameworks are imported when one of its targets is made.

OpenVINO has none: its loader reads checkpoints that the other targets open, and of its own files only those that it wrote to the cache.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.fuzz.target import Room, Target

#: Name -> the module and function that makes it.
TARGETS: Final = {
    "gguf": "benchmarks.fuzz.targets.weights:gguf",
    "split_gguf": "benchmarks.fuzz.targets.weights:split_gguf",
    "safetensors": "benchmarks.fuzz.targets.weights:safetensors",
    "folder": "benchmarks.fuzz.targets.weights:folder",
    "quantized": "benchmarks.fuzz.targets.weights:quantized",
    "packed": "benchmarks.fuzz.targets.packed:packed",
    "tokenizer": "benchmarks.fuzz.targets.texts:tokenizer",
    "template": "benchmarks.fuzz.targets.texts:template",
    "chat": "benchmarks.fuzz.targets.texts:chat",
    "conversation": "benchmarks.fuzz.targets.texts:conversation",
    "archive": "benchmarks.fuzz.targets.archives:archive",
    "onnx": "benchmarks.fuzz.targets.exports:onnx",
    "pt2": "benchmarks.fuzz.targets.exports:pt2",
    "saved_model": "benchmarks.fuzz.targets.exports:saved_model",
    "keras": "benchmarks.fuzz.targets.exports:keras",
}


def make_target(name: str, room: Room) -> Target:
    """A target of ``TARGETS``, or one that ``module:function`` makes."""
    module, _, function = TARGETS.get(name, name).partition(":")
    target: Target = getattr(importlib.import_module(module), function)(room)
    return target
