"""JSON that every reader takes: no bare NaN or Infinity, which the format does not have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def finite(value: Any) -> Any:
    """Plain data with None in the place of each float that is not finite; numpy's numbers and arrays become plain ones."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    return value


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """``value`` as JSON; what is no plain data is written as its text."""
    return json.dumps(finite(value), ensure_ascii=False, indent=indent, default=str, allow_nan=False)
