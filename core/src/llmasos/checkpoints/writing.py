"""Writes small files so that they survive a power failure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file and flush it to the disk; an older one of the name is replaced in one step."""
    partial = path.with_name(f".{path.name}.partial-{os.urandom(6).hex()}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON. Raises ``TypeError`` for values that JSON lacks."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Indented JSON. Raises ``TypeError`` for values that JSON lacks."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
