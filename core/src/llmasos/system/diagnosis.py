"""What core knows of the machine and of its plugins, as plain data for verbs that show it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from typing import Any, Final

import attrs

from llmasos.system.discovery import InstalledComponent, registry
from llmasos.system.hardware import cores, memory
from llmasos.system.requirements import installed_version
from llmasos_config.catalog import faster, published
from llmasos_isolation import code_command
from llmasos_model_store.folders import cache_folder, config_folder, data_folder

#: Seconds that a plugin may take to import with all of its frameworks.
_PATIENCE: Final = 120

# A plugin that crashes the interpreter must not take this process with it.
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


def describe_system() -> dict[str, Any]:
    """The cores and the memory that this process may use, core's folders, problems of the installed plugins, and what is published and not
    installed; sizes in bytes."""
    return {
        "cores": attrs.asdict(cores()),
        "memory": attrs.asdict(memory()),
        "folders": {"config": str(config_folder()), "data": str(data_folder()), "cache": str(cache_folder())},
        "problems": list(registry().problems()),
        "missing": _missing(registry().entries()),
    }


def try_component(kind: str, use: str) -> str | None:
    """Import a component with its frameworks in a process of its own; the reason why that fails, or None where it works."""
    try:
        done = subprocess.run(
            code_command(_TRY, kind, use),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not imported after {_PATIENCE} seconds"
    if done.returncode < 0:
        return f"ended the process by signal {-done.returncode}"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"ended the process with exit code {done.returncode}"


def _missing(entries: Iterable[InstalledComponent]) -> list[str]:
    installed = {(entry.kind, entry.name) for entry in entries}
    components = [
        f'The {kind} "{name}" is not installed; pip install {distribution}.'
        for kind, names in published().items()
        for name, distribution in names.items()
        if (kind, name) not in installed
    ]
    return components + [
        f"{distribution} is not installed: it {what}; pip install {distribution}."
        for distribution, what in faster().items()
        if installed_version(distribution) is None
    ]
