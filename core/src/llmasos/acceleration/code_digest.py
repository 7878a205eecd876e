"""A digest of a plugin's code, because an accelerator that was edited without a new version makes other tensors."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType


def code_digest(module: ModuleType) -> str:
    """SHA-256 over all files of the package that ``module`` belongs to, or over its own file; empty for a module without files."""
    package = sys.modules.get(module.__name__.partition(".")[0], module)
    file = getattr(package, "__file__", None) or getattr(module, "__file__", None)
    if file is None:
        return ""
    path = Path(file)
    files = sorted(path.parent.rglob("*")) if path.name.startswith("__init__.") else [path]
    digest = hashlib.sha256()
    for each in files:
        if each.is_file() and "__pycache__" not in each.parts:
            name = each.relative_to(path.parent).as_posix()
            digest.update(f"{name}\0{hashlib.sha256(each.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
