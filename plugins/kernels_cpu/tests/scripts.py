"""The scripts that build the library, as modules: they are beside the package, and in none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Final

PACKAGE: Final = Path(__file__).parents[1]


def load_script(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, PACKAGE / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
