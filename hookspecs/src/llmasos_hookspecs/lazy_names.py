"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any, Final


class LazyNames:
    """A package's ``__getattr__``.

    Attributes:
        module_of: name -> its module below ``llmasos_hookspecs``.
        names: all of them, sorted: the package's ``__all__``.
    """

    def __init__(self, package: str, modules: Mapping[str, str]) -> None:
        """``package``: whose names they are; ``modules``: module below ``llmasos_hookspecs`` -> its names, with spaces between them."""
        self._package = package
        self.module_of: Final = {name: module for module, names in modules.items() for name in names.split()}
        self.names: Final = sorted(self.module_of)

    def __call__(self, name: str) -> Any:
        module = self.module_of.get(name)
        if module is None:
            raise AttributeError(f"module {self._package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"llmasos_hookspecs.{module}"), name)
        setattr(sys.modules[self._package], name, found)  # found at once the next time
        return found
