"""What ``llmasos doctor`` says: hardware, versions, and whether each plugin works, tried in a process of its own."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from typing import Any, Final

import attrs

from llmasos.system.catalog import published
from llmasos.system.discovery import InstalledComponent, registry
from llmasos.system.folders import cache_folder, config_folder, data_folder
from llmasos.system.hardware import defaults, measure_bandwidth, probe
from llmasos.system.isolation import code_command

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

#: Seconds that a plugin may take to import with all of its frameworks.
_PATIENCE: Final = 120

# A plugin that crashes the interpreter must not take the doctor with it.
_TRY: Final = """
import importlib, sys
from llmasos.system.components import load_component, missing_frameworks
from llmasos.system.discovery import registry
from llmasos_hookspecs import LLMasOSError
kind, use = sys.argv[1:]
try:
    component = load_component(registry().find(kind, use)).component
    missing = missing_frameworks(component)
    if missing:
        sys.exit(f"needs {' and '.join(missing)}; pip install {' '.join(missing)}")
    for framework in component.frameworks:
        importlib.import_module(framework)
except LLMasOSError as error:
    sys.exit(str(error))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def diagnose() -> dict[str, Any]:
    """Everything at once, as plain data; sizes in bytes, bandwidth in bytes a second. Takes seconds: plugins are really imported."""
    hardware = probe()
    threads = defaults(hardware).threads
    entries = registry().entries()
    return {
        "hardware": {
            **attrs.asdict(hardware),
            "bandwidth": [attrs.asdict(measure_bandwidth(count)) for count in sorted({1, threads})],
            "defaults": attrs.asdict(defaults(hardware)),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "folders": {"config": str(config_folder()), "data": str(data_folder()), "cache": str(cache_folder())},
        "plugins": [_try(entry) for entry in entries],
        "problems": list(registry().problems()),
        "missing": _missing(entries),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _try(entry: InstalledComponent) -> Mapping[str, Any]:
    facts = {"kind": entry.kind, "name": entry.name, "distribution": entry.distribution, "version": entry.version}
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            code_command(_TRY, entry.kind, entry.qualified),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            env=quiet,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {**facts, "works": False, "problem": f"not imported after {_PATIENCE} seconds"}
    lines = done.stderr.strip().splitlines()
    if done.returncode < 0:
        return {**facts, "works": False, "problem": f"ended the process by signal {-done.returncode}"}
    return {**facts, "works": done.returncode == 0, "problem": lines[-1] if done.returncode and lines else ""}


def _missing(entries: tuple[InstalledComponent, ...]) -> list[str]:
    installed = {(entry.kind, entry.name) for entry in entries}
    return [
        f'The {kind} "{name}" is not installed; pip install {distribution}.'
        for kind, names in published().items()
        for name, distribution in names.items()
        if (kind, name) not in installed
    ]
