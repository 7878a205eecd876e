"""What ``llmasos doctor`` says of the machine: hardware, versions, and whether each plugin works."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any, Final

from llmasos_devtools.doctor.hardware import describe
from llmasos_hookspecs import CommandContext, ComponentEntry

_PACKAGES: Final = (
    "llmasos",
    "llmasos-hookspecs",
    "numpy",
    "onnxruntime",
    "torch",
    "transformers",
    "tensorflow",
    "tensorflow-cpu",
    "tokenizers",
)


def diagnose(context: CommandContext) -> dict[str, Any]:
    """Everything at once, as plain data; sizes in bytes, bandwidth in bytes a second. Takes seconds: plugins are really imported."""
    system = context.describe_system()
    return {
        "hardware": describe(system),
        "versions": {"python": platform.python_version(), **_versions()},
        "folders": system["folders"],
        "plugins": [_tried(entry, context) for entry in context.components()],
        "problems": system["problems"],
        "missing": system["missing"],
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _tried(entry: ComponentEntry, context: CommandContext) -> dict[str, Any]:
    problem = context.try_component(entry)
    facts = {"kind": entry.kind, "name": entry.name, "distribution": entry.distribution, "version": entry.version}
    return {**facts, "works": problem is None, "problem": problem or ""}
