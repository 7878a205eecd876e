"""Writing attrs classes back as plain data that TOML and JSON can hold."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any

import attrs

from llmasos_options.fields import fields_of


def unstructure(value: Any) -> Any:
    """An instance as a dict (its fields by their config keys), and what it holds as dicts, lists, strings and numbers."""
    kind: type = type(value)
    if attrs.has(kind):
        return {field.key: unstructure(getattr(value, field.attribute.name)) for field in fields_of(kind)}
    if isinstance(value, Mapping):
        return {str(key): unstructure(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return unstructure(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Set):
        return sorted((unstructure(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [unstructure(item) for item in value]
    return value
