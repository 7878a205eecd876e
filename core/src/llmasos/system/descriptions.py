"""What the installed components say of themselves, without importing a plugin into this process.

A plugin that nobody named does not run here: a child process with limits imports it and returns its description, which is kept in the cache
as long as the plugin's files and what is installed beside it stay the same. The module itself is imported once config or a call names it,
or ``auto`` comes to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos.system.components import load_component
from llmasos.system.discovery import CORE, InstalledComponent
from llmasos.system.requirements import installed_version
from llmasos_hookspecs import API_VERSION, ApartError, ApartLimits, Component, PluginError
from llmasos_hookspecs.atomic import write_atomically
from llmasos_hookspecs.guarding.edge import in_words, interrupted
from llmasos_isolation import run_apart
from llmasos_model_store.folders import cache_folder
from llmasos_options import json_schema

#: Version of what is kept.
_VERSION: Final = 1
#: A light import takes a fraction of this; some plugins import their framework against the rules.
_LIMITS: Final = ApartLimits(memory=8 << 30, cpu_seconds=60, seconds=60, output=16 << 20, files=256)
_READ: Final = f"{__name__}:read"

_IS_TEXT: Final = attrs.validators.instance_of(str)
_ARE_TEXTS: Final = attrs.validators.deep_iterable(_IS_TEXT)


@attrs.frozen(kw_only=True)
class Description:
    """A component's plain data.

    Attributes:
        entry: the component as its distribution announces it.
        problem: why it cannot be used, one sentence; then the rest is empty.
        options: JSON Schema of its options.

    The rest is as in ``Component``.
    """

    entry: InstalledComponent
    problem: str = attrs.field(default="", validator=_IS_TEXT)
    summary: str = attrs.field(default="", validator=_IS_TEXT)
    examples: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=_ARE_TEXTS)
    schemes: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=_ARE_TEXTS)
    files: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=_ARE_TEXTS)
    formats: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=_ARE_TEXTS)
    architectures: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=_ARE_TEXTS)
    preference: int = attrs.field(default=0, validator=attrs.validators.instance_of(int))
    frameworks: Mapping[str, str] = attrs.field(factory=dict, validator=attrs.validators.instance_of(dict))
    options: Mapping[str, Any] = attrs.field(factory=dict, validator=attrs.validators.instance_of(dict))

    @property
    def option_names(self) -> tuple[str, ...]:
        """The keys that config may set."""
        return tuple(self.options.get("properties", ()))


def described(entries: Iterable[InstalledComponent]) -> tuple[Description, ...]:
    """The descriptions of components, in their order; what is broken has a ``problem``."""
    found: dict[InstalledComponent, Description] = {}
    unknown: dict[InstalledComponent, str] = {}
    entries = tuple(entries)
    core = installed_version(CORE)
    for entry in entries:
        if entry.distribution == CORE:
            found[entry] = _description(entry, _facts(entry))
        elif (kept := _recall(entry, key := _key(entry, core))) is not None:
            found[entry] = kept
        else:
            unknown[entry] = key
    for description in _read_apart(list(unknown)):
        found[description.entry] = description
        _keep(description, unknown[description.entry])
    return tuple(found[entry] for entry in entries)


def read(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the child: import each component's module, and describe it in plain data."""
    return [_facts(InstalledComponent(**{**entry, "requires": tuple(entry["requires"])})) for entry in entries]


def _facts(entry: InstalledComponent) -> dict[str, Any]:
    try:
        component = load_component(entry).component
        facts = {field.name: getattr(component, field.name) for field in attrs.fields(Component) if field.name in _PLAIN}
        return {**facts, "frameworks": dict(component.frameworks), "options": json_schema(component.options)}
    except PluginError as error:
        return {"problem": str(error)}
    except BaseException as error:
        if interrupted(error):
            raise
        return {"problem": f"The {entry.label} cannot be described, because it raises {in_words(error)}."}


#: What ``Description`` and ``Component`` have in common, options aside.
_PLAIN: Final = frozenset(attrs.fields_dict(Description)) & frozenset(attrs.fields_dict(Component)) - {"options"}


def _description(entry: InstalledComponent, facts: Mapping[str, Any]) -> Description:
    try:
        return Description(entry=entry, **facts)
    except (TypeError, ValueError):
        return Description(entry=entry, problem=f"The {entry.label} describes itself by values of a wrong type; tell its author.")


def _read_apart(entries: list[InstalledComponent]) -> list[Description]:
    if not entries:
        return []
    try:
        found = run_apart(_READ, [attrs.asdict(entry) for entry in entries], limits=_LIMITS)
        return [_description(entry, facts) for entry, facts in zip(entries, found, strict=True)]
    except (ApartError, OSError) as error:
        if len(entries) == 1:
            label = entries[0].label
            return [Description(entry=entries[0], problem=f"The {label} cannot be described in a process of its own: {error}.")]
    # One of them ended the child: those of each kind, then each alone show which.
    kinds = {entry.kind for entry in entries}
    parts = (
        [[entry for entry in entries if entry.kind == kind] for kind in sorted(kinds)] if len(kinds) > 1 else [[entry] for entry in entries]
    )
    return [description for part in parts for description in _read_apart(part)]


def _key(entry: InstalledComponent, core: str | None) -> str:
    """What a description depends on: the component, its files, what is installed beside it, and what reads it, of the version ``core``."""
    files = _files(entry.module.partition(".")[0])
    facts = [_VERSION, API_VERSION, platform.python_version(), core, attrs.astuple(entry), files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _files(package: str) -> list[tuple[str, int, int]]:
    """Path, size and time of each source file of a top-level package or module, which is not imported, and of the folder it lies in."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None:
        return []
    roots = spec.submodule_search_locations
    places = [os.path.dirname(root) for root in roots] if roots is not None else [spec.origin, os.path.dirname(spec.origin or "")]
    inside = (os.path.join(at, name) for root in roots or () for at, _, names in os.walk(root) for name in names)
    places += sorted(path for path in inside if path.endswith(".py"))
    found = []
    for place in filter(None, places):
        with contextlib.suppress(OSError):
            state = os.stat(place)
            found.append((place, state.st_size, state.st_mtime_ns))
    return found


def _place(entry: InstalledComponent) -> Path:
    """One file for each component of an environment."""
    name = json.dumps([sys.prefix, entry.kind, entry.distribution, entry.name, entry.module])
    return cache_folder() / "checked" / "descriptions" / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}.json"


def _recall(entry: InstalledComponent, key: str) -> Description | None:
    try:
        kept = json.loads(_place(entry).read_bytes())
        return Description(entry=entry, **kept["facts"]) if kept["key"] == key else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _keep(description: Description, key: str) -> None:
    facts = attrs.asdict(description, filter=lambda attribute, _: attribute.name != "entry")
    place = _place(description.entry)
    with contextlib.suppress(OSError):  # a disk that is full or read-only costs asking again
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(place, json.dumps({"key": key, "facts": facts}), mode=0o600)
