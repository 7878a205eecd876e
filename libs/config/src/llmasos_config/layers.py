"""Several places that set config, merged: the user's file, the project's file, and overrides from the command line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_config.sections import Config
from llmasos_hookspecs import ConfigError
from llmasos_model_store.folders import config_folder
from llmasos_options.words import dotted

#: A config is written by hand; a file beyond this is something else.
_MAX_BYTES: Final = 1 << 20

_PROJECT_FILE: Final = "llmasos.toml"


@attrs.frozen
class Layer:
    """What one place sets. ``origin`` is a file's path or ``--set``."""

    origin: str
    mapping: Mapping[str, Any]


def load_config(path: Path | str | None = None, *, overrides: Sequence[str] = ()) -> Config:
    """The config that holds here.

    Later layers win, value by value: the user's file, then ``path`` (else the file that ``LLMASOS_CONFIG`` names, else
    ``llmasos.toml`` in the working folder, if there is one), then ``overrides`` such as ``scheduler.use=fair``. Arrays of tables are
    replaced whole by a later file.

    Raises:
        ConfigError: a file is missing or no TOML, or a value is refused; with the path of the first problem.
    """
    mapping, origins = _layered(path, overrides)
    return Config.from_mapping(mapping, origins=origins)


def inspect_config(path: Path | str | None = None, *, overrides: Sequence[str] = ()) -> tuple[Config, tuple[ConfigError, ...]]:
    """As ``load_config``, with every problem of the values, and defaults in place of those.

    Raises:
        ConfigError: a file is missing or no TOML.
    """
    mapping, origins = _layered(path, overrides)
    return Config.read(mapping, origins=origins)


def _layered(path: Path | str | None, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What all layers set, and where each value comes from."""
    mapping: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in find_layers(path):
        mapping = _merge(mapping, layer.mapping, "", layer.origin, origins)
    for override in overrides:
        _override(mapping, override, origins)
    return mapping, origins


def find_layers(path: Path | str | None = None) -> tuple[Layer, ...]:
    """The files that hold here, the weakest first."""
    found = []
    user = config_folder() / "config.toml"
    if user.is_file():
        found.append(read_layer(user))
    named = path or os.environ.get("LLMASOS_CONFIG")
    if named:
        found.append(read_layer(Path(named)))
    elif Path(_PROJECT_FILE).is_file():
        found.append(read_layer(Path(_PROJECT_FILE)))
    return tuple(found)


def read_layer(path: Path) -> Layer:
    """Read one TOML file.

    Raises:
        ConfigError: it is missing, too large, or no TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = "is a folder" if path.is_dir() else getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"The config file {path} cannot be read: {reason}.") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"The config file {path} is larger than {_MAX_BYTES >> 20} MiB, so it is no config.")
    try:
        return Layer(str(path), tomllib.loads(content.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise ConfigError(f"The config file {path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from error
    # Deep nesting runs tomllib into the recursion limit, and an endless number into Python's limit of digits.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The config file {path} is no TOML: {error or 'it is nested too deeply'}.") from error


def _merge(below: Mapping[str, Any], above: Mapping[str, Any], path: str, origin: str, origins: dict[str, str]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        place = dotted(path, key)
        if isinstance(value, Mapping):
            under = merged.get(key)
            merged[key] = _merge(under if isinstance(under, Mapping) else {}, value, place, origin, origins)
        else:
            merged[key] = value
            _mark(value, place, origin, origins)
    return merged


def _mark(value: Any, path: str, origin: str, origins: dict[str, str]) -> None:
    """Note where a value, and each value inside it, comes from; what stood there before is gone."""
    for place in [place for place in origins if place.startswith((f"{path}.", f"{path}["))]:
        del origins[place]
    if isinstance(value, Mapping):
        for key, item in value.items():
            _mark(item, dotted(path, key), origin, origins)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for i, item in enumerate(value):
            _mark(item, f"{path}[{i}]", origin, origins)
    else:
        origins[path] = origin


def _override(mapping: dict[str, Any], override: str, origins: dict[str, str]) -> None:
    """Set one value, ``path=value``; the value is TOML, or a string where it is none."""
    path, equals, text = override.partition("=")
    steps = _steps(path.strip())
    if not equals or not steps or not isinstance(steps[0], str):
        raise ConfigError(f'The override "{override}" must have the form path=value, such as seed=7 or accelerate[0].bits=8.')
    value = _value(text.strip())
    holder: Any = mapping
    place = ""
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        place = _place(place, step)
        last = following is None
        fresh: Any = value if last else [] if isinstance(following, int) else {}
        if isinstance(step, int):
            holder = _enter_item(holder, step, fresh, last, place, override)
        else:
            holder = _enter_key(holder, step, fresh, last, place, override)
    _mark(value, place, "--set", origins)


def _enter_key(holder: Any, key: str, fresh: Any, last: bool, place: str, override: str) -> Any:
    if not isinstance(holder, dict):
        raise ConfigError(f'The override "{override}" goes into {place}, which is no table.', place)
    if last or key not in holder:
        holder[key] = fresh
    elif isinstance(holder[key], Mapping | list):
        # The layers below stay as they were read.
        holder[key] = dict(holder[key]) if isinstance(holder[key], Mapping) else list(holder[key])
    return holder[key]


def _enter_item(holder: Any, index: int, fresh: Any, last: bool, place: str, override: str) -> Any:
    if not isinstance(holder, list) or index > len(holder):
        count = len(holder) if isinstance(holder, list) else 0
        raise ConfigError(
            f'The override "{override}" names {place}, and there are {count}; the next that can be set is number {count}.', place
        )
    if index == len(holder):
        holder.append(fresh)
    elif last:
        holder[index] = fresh
    elif isinstance(holder[index], Mapping | list):
        holder[index] = dict(holder[index]) if isinstance(holder[index], Mapping) else list(holder[index])
    return holder[index]


_STEP: Final = re.compile(r'\.?(?:([A-Za-z0-9_-]+)|"([^"\\]+)")|\[([0-9]{1,4})\]')


def _steps(path: str) -> list[str | int]:
    """``accelerate[1].bits`` as ``["accelerate", 1, "bits"]``; empty where it is no path."""
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None or (match[3] is None and (at == 0) == path.startswith(".", at)):
            return []
        steps.append(int(match[3]) if match[3] is not None else match[1] or match[2])
        at = match.end()
    return steps


def _value(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # A line break would let one override say several things.
    return found["value"] if list(found) == ["value"] else text


def _place(path: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{path}[{step}]"
    return dotted(path, step)
