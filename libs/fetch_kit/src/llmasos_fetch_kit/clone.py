"""The packages of a clone of the repository: they are installed from its folders while no index has them."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlparse

import attrs

#: Where the packages lie in the repository.
_PACKAGES: Final = ("hookspecs", "core", "libs/*", "plugins/*")
_PREFIX: Final = "llmasos-"


@attrs.frozen
class ClonedPackage:
    """A package of the clone: its folder, and the packages that it requires, by normalised names."""

    name: str
    folder: Path
    requires: tuple[str, ...]


@functools.cache
def clone() -> Mapping[str, ClonedPackage]:
    """The packages of the clone that core was installed from in editable mode, by name; empty where it came from elsewhere."""
    try:
        text = importlib.metadata.distribution("llmasos").read_text("direct_url.json")
        facts = json.loads(text or "{}")
        if not facts.get("dir_info", {}).get("editable"):
            return {}
        return packages_below(Path(unquote(urlparse(facts["url"]).path)).parent)
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError, AttributeError):
        return {}


def packages_below(root: Path) -> Mapping[str, ClonedPackage]:
    """The packages of a clone at a folder, by name; those that cannot be read are left out."""
    found = {}
    for pattern in _PACKAGES:
        for file in sorted(root.glob(f"{pattern}/pyproject.toml")):
            try:
                project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
                requires = [re.match(r"[\w.-]+", each) for each in project.get("dependencies", ())]
                name = normalized(project["name"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            found[name] = ClonedPackage(name, file.parent, tuple(normalized(each[0]) for each in requires if each))
    return found


def cloned(word: str, packages: Mapping[str, ClonedPackage]) -> ClonedPackage | None:
    """The package that a user means: by its distribution's name, with or without ``llmasos-``, or by its folder's."""
    name = normalized(word)
    return packages.get(name) or packages.get(_PREFIX + name)


def to_install(package: ClonedPackage, packages: Mapping[str, ClonedPackage]) -> tuple[Path, ...]:
    """The folders to install for a package: its own, and those of what it requires of the clone and is not installed."""
    folders, left, seen = [package.folder], list(package.requires), {package.name}
    while left:
        name = left.pop(0)
        if name in seen or name not in packages or _installed(name):
            continue
        seen.add(name)
        folders.append(packages[name].folder)
        left += packages[name].requires
    return tuple(folders)


def arguments_for(word: str, packages: Mapping[str, ClonedPackage]) -> list[str]:
    """What to give pip for a package of the clone: its folders, in editable mode; empty where the word is a path, or means no package or
    one that is installed."""
    package = None if re.search(r"[/\\]", word) else cloned(word, packages)
    if package is None or _installed(package.name):
        return []
    return [part for folder in to_install(package, packages) for part in ("--editable", str(folder))]


def in_this_clone(sentence: str, packages: Mapping[str, ClonedPackage]) -> str:
    """A sentence that says to install a package from an index, with what works in a clone behind it."""
    found = re.search(r"pip install (llmasos-[\w-]+)", sentence)
    package = cloned(found[1], packages) if found else None
    if package is None or _installed(package.name):
        return sentence
    command = Path(sys.executable).with_name("llmasos")
    with contextlib.suppress(ValueError):
        command = command.relative_to(Path.cwd())
    return f"{sentence} In this clone: {command} plugins install {short_name(package)}"


def short_name(package: ClonedPackage) -> str:
    """The name without ``llmasos-``."""
    return package.name.removeprefix(_PREFIX)


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
