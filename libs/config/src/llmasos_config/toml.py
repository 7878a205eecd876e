"""Writing plain data as TOML."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmasos_hookspecs import ConfigError

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(mapping: Mapping[str, Any]) -> str:
    """A mapping of strings, numbers, bools, dates, lists and mappings as a TOML document. A value None is left out.

    Raises:
        ConfigError: a value that TOML has no form for.
    """
    return "\n".join(_table(mapping, ())).lstrip("\n") + "\n"


def _table(mapping: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    tables = {key: value for key, value in mapping.items() if isinstance(value, Mapping) or _is_tables(value)}
    for key, value in mapping.items():
        if key not in tables and value is not None:
            yield f"{_key(key)} = {_value(value, '.'.join((*path, key)))}"
    for key, value in tables.items():
        inner = (*path, key)
        name = ".".join(_key(part) for part in inner)
        for each in [value] if isinstance(value, Mapping) else value:
            lines = list(_table(each, inner))
            # A table of nothing but tables needs no header of its own.
            if not isinstance(value, Mapping) or not lines or lines[0]:
                yield ""
                yield f"[{name}]" if isinstance(value, Mapping) else f"[[{name}]]"
            yield from lines


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any, path: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each, path) for each in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(each, path)}" for key, each in value.items() if each is not None) + "}"
    raise ConfigError(f"{path} is a {type(value).__name__}, which TOML cannot hold.", path)
