"""Presets: models that users made of others, with a system message and options of their own, each one TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_config.aliases import Aliases
from llmasos_config.toml import to_toml
from llmasos_hookspecs import ConfigError
from llmasos_hookspecs.atomic import write_atomically
from llmasos_hookspecs.nearest import did_you_mean
from llmasos_model_store.folders import data_folder

#: As an alias: neither a path nor a reference with a scheme.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: A preset is written by hand; a file beyond this is something else.
_MAX_BYTES: Final = 1 << 20
_MAX_STEPS: Final = 16
#: What a preset may hold: the tables of config that describe one model.
TABLES: Final = ("model", "loader", "accelerate", "scheduler", "placement")


@attrs.frozen
class Preset:
    """A preset as its file has it; ``tables`` are those of config that describe a model."""

    name: str
    path: Path
    tables: Mapping[str, Any]


class Presets:
    """The presets of a folder, by name; files that users share are read by ``read_preset``."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where they are: by default with the user's data."""
        return self._folder or data_folder() / "presets"

    def names(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(sorted(path.stem for path in self.folder.glob("*.toml") if _NAME.fullmatch(path.stem)))

    def get(self, name: str) -> Preset | None:
        """The preset of a name; None where there is none. Raises ``ConfigError`` where its file is damaged."""
        if not _NAME.fullmatch(name) or not (path := self.folder / f"{name}.toml").is_file():
            return None
        return Preset(name, path, read_preset(path))

    def path(self, name: str) -> Path:
        """The file for a new preset. Raises ``ConfigError`` where the name cannot be one, or is an alias."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f'"{name}" cannot name a preset; use letters, digits, ".", "_" and "-", beginning with a letter or digit.')
        if name in Aliases().all():
            raise ConfigError(f'"{name}" is an alias already; give the preset another name.')
        return self.folder / f"{name}.toml"

    def write(self, name: str, tables: Mapping[str, Any], *, replace: bool = False) -> Path:
        """Keep a preset. Raises ``ConfigError`` where its name is taken, or the file cannot be written."""
        path = self.path(name)
        if path.exists() and not replace:
            raise ConfigError(f'There is a preset "{name}" already; give another name, or --force to replace it.')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, to_toml(tables))
        except OSError as error:
            raise ConfigError(f"The preset {path} cannot be written: {error.strerror or error}; set LLMASOS_HOME.") from error
        return path

    def remove(self, name: str) -> int:
        """Forget a preset; returns the bytes of its file. Raises ``ConfigError`` where there is none."""
        found = self.get(name)
        if found is None:
            raise ConfigError(f'There is no preset "{name}"{did_you_mean(name, self.names())}')
        size = found.path.stat().st_size
        found.path.unlink()
        return size

    def chain(self, name: str) -> Iterator[Preset]:
        """The preset of a name, then the one that it was made from, and so on.

        Raises:
            ConfigError: one is damaged, or they lead in a circle.
        """
        seen: list[str] = []
        name = _meant(name)
        while (preset := self.get(name)) is not None:
            if name in seen or len(seen) == _MAX_STEPS:
                raise ConfigError(f"The preset {' -> '.join([*seen, name])} leads in a circle; remove one with llmasos models remove.")
            seen.append(name)
            yield preset
            source = preset.tables.get("model", {}).get("source")
            # A preset may have the name of the model that it is made from: a folder, say.
            if not isinstance(source, str) or source == name:
                return
            name = _meant(source)


def _meant(name: str) -> str:
    """The name that an alias stands for; a name that is none is its own."""
    return Aliases().expand(name).reference if _NAME.fullmatch(name) else name


def read_preset(path: Path) -> dict[str, Any]:
    """The tables of a preset's file.

    Raises:
        ConfigError: it cannot be read, is no TOML, or holds what describes no model.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"The preset {path} is larger than {_MAX_BYTES >> 20} MiB, so it is no preset.")
        tables = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"The preset {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"The preset {path} is no TOML: {error or 'it is nested too deeply'}.") from error
    check_tables(tables, f"The preset {path}")
    return tables


def check_tables(tables: Mapping[str, Any], label: str) -> None:
    """Raise ``ConfigError`` where there is a table that describes no model."""
    for key in tables:
        if key not in TABLES:
            raise ConfigError(f"{label} has {key}, and it may have only {', '.join(TABLES)}{did_you_mean(key, TABLES)}", key)
    if not isinstance(tables.get("model", {}), Mapping):
        raise ConfigError(f"{label} has a model that is no table.", "model")


def laid_over(below: Any, above: Any) -> Any:
    """A value of config over the one of a preset: tables are merged, unless they are of two components; all else is replaced."""
    below, above = _as_table(below, above), _as_table(above, below)
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)) or above.get("use", below.get("use")) != below.get("use"):
        return above
    return {**below, **{key: laid_over(below[key], value) if key in below else value for key, value in above.items()}}


def _as_table(value: Any, other: Any) -> Any:
    """A component's name as a table, where the other value is a component's table or name too."""
    return {"use": value} if isinstance(value, str) and isinstance(other, Mapping) and "use" in other else value
