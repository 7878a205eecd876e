"""Short names for models: built in, and the user's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs
from filelock import FileLock

from llmasos_config.catalog import first_component, known_aliases, reference_forms
from llmasos_hookspecs import SourceError
from llmasos_hookspecs.atomic import write_atomically
from llmasos_hookspecs.nearest import did_you_mean
from llmasos_model_store.folders import data_folder

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: A repository of a hub: an owner and a name, neither of which begins as a path does.
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MAX_STEPS: Final = 16


@attrs.frozen
class Alias:
    """A short name. ``warning`` is a sentence that is shown when the alias is used."""

    name: str
    target: str
    builtin: bool = False
    warning: str = ""


def built_in() -> Mapping[str, Alias]:
    """The built-in aliases by name; a user's alias of the same name takes precedence."""
    return {name: Alias(name, found["target"], builtin=True, warning=found.get("warning", "")) for name, found in known_aliases().items()}


@attrs.frozen
class Expansion:
    """What a reference stands for once its aliases are replaced, which aliases those were, and what the user should be told."""

    reference: str
    aliases: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Aliases:
    """The built-in aliases and those in the user's ``aliases.json``; safe between processes."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or data_folder() / "aliases.json"

    def all(self) -> Mapping[str, Alias]:
        """All aliases by name.

        Raises:
            SourceError: the user's file is damaged.
        """
        return {**built_in(), **{name: Alias(name, target) for name, target in self._read().items()}}

    def expand(self, reference: str) -> Expansion:
        """Replace aliases until none is left. What then is ``org/name``, and no folder here, is a repository of a hub.

        Raises:
            SourceError: they lead in a circle.
        """
        known = self.all()
        used: list[str] = []
        warnings: list[str] = []
        while (alias := known.get(reference)) is not None:
            if reference in used or len(used) == _MAX_STEPS:
                raise SourceError(f"The alias {' -> '.join([*used, reference])} leads in a circle; mend it with llmasos models alias.")
            used.append(reference)
            if alias.warning:
                warnings.append(alias.warning)
            reference = alias.target
        return Expansion(_of_hub(reference), tuple(used), tuple(warnings))

    def set(self, name: str, target: str) -> None:
        """Make ``name`` stand for ``target``, which may be an alias itself.

        Raises:
            SourceError: the name is no name, the aliases would lead in a circle, or the file cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise SourceError(f'"{name}" cannot be an alias; use letters, digits, ".", "_" and "-", beginning with a letter or digit.')
        if not target.strip():
            raise SourceError(f'The alias "{name}" must stand for a model; give another alias, a path, {reference_forms()}.')
        self._change({name: target.strip()})

    def remove(self, name: str) -> None:
        """Forget a user's alias.

        Raises:
            SourceError: there is none by that name (with the nearest), or it is built in.
        """
        own = self._read()
        if name not in own:
            if name in built_in():
                raise SourceError(
                    f'The alias "{name}" is built in and cannot be removed; an alias of your own by that name takes precedence.'
                )
            raise SourceError(f'There is no alias "{name}"{did_you_mean(name, own)}')
        self._change({name: None})

    def names_for(self, key: str) -> tuple[str, ...]:
        """Aliases that lead, directly or over others, to a reference."""
        return tuple(name for name in sorted(self.all()) if self.expand(name).reference == key)

    def _change(self, changes: Mapping[str, str | None]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")):
                own = {**self._read(), **changes}
                kept = {name: target for name, target in sorted(own.items()) if target is not None}
                known = {**built_in(), **{name: Alias(name, target) for name, target in kept.items()}}
                for name in changes:
                    _check_ends(name, known)
                write_atomically(self.path, json.dumps(kept, ensure_ascii=False, indent=1))
        except OSError as error:
            raise SourceError(f"The aliases in {self.path} cannot be written: {error.strerror or error}; set LLMASOS_HOME.") from error

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise SourceError(f"The aliases in {self.path} cannot be read ({error}); mend or remove the file.") from error
        if not isinstance(found, dict) or not all(isinstance(target, str) for target in found.values()):
            raise SourceError(f"The aliases in {self.path} must be a table of names and references; mend or remove the file.")
        return found


def _of_hub(reference: str) -> str:
    """``org/name`` where there is no such folder, as the reference of the source that is named first; any other reference as it is."""
    if _REPOSITORY.fullmatch(reference) and not Path(reference).exists():
        return f"{first_component('source')}:{reference}"
    return reference


def _check_ends(name: str, known: Mapping[str, Alias]) -> None:
    seen = [name]
    while (alias := known.get(seen[-1])) is not None:
        if alias.target in seen:
            raise SourceError(f'The alias "{name}" would lead in a circle: {" -> ".join([*seen, alias.target])}.')
        seen.append(alias.target)
