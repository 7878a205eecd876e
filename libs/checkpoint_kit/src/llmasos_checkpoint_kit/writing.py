"""JSON files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmasos_hookspecs.atomic import write_atomically


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON. Raises ``TypeError`` for values that JSON lacks."""
    write_atomically(path, json_bytes(value))


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Indented JSON. Raises ``TypeError`` for values that JSON lacks."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
