"""Checks whether the requirements of a distribution are installed, from metadata alone."""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import importlib_metadata

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_VERSION: Final = re.compile(r"^Version:[ \t]*(\S+)[ \t]*$", re.MULTILINE | re.IGNORECASE)


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        found = importlib_metadata.distribution(distribution)
    except importlib_metadata.PackageNotFoundError:
        return None
    # One header of many: to parse them all takes most of the time that it takes to list a hundred plugins.
    headers, _, _ = (found.read_text("METADATA") or "").partition("\n\n")
    version = _VERSION.search(headers)
    return found.version if version is None else version[1]


def unmet_requirements(
    requires: Iterable[str], requires_python: str = "", *, version_of: Callable[[str], str | None] = installed_version
) -> tuple[str, ...]:
    """One clause for each requirement that this environment does not meet.

    Requirements of extras are skipped, because extras are optional. A requirement that cannot be parsed counts as unmet. For many
    distributions pass a ``version_of`` with a cache: each look-up reads a file.
    """
    # packaging costs 20 ms to import, which a process that names no plugin need not pay.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    unmet: list[str] = []
    python = platform.python_version()
    try:
        if requires_python and not SpecifierSet(requires_python).contains(python, prereleases=True):
            unmet.append(f"Python {requires_python} (this is {python})")
    except InvalidSpecifier:
        unmet.append(f'Python "{requires_python}", which is no version specifier')
    for text in requires:
        clause = _unmet(text, version_of)
        if clause:
            unmet.append(clause)
    return tuple(unmet)


def _unmet(text: str, version_of: Callable[[str], str | None]) -> str:
    from packaging.requirements import InvalidRequirement

    try:
        requirement = _needed(text)
    except InvalidRequirement:
        return f'"{text}", which is no valid requirement'
    if requirement is None:
        return ""
    version = version_of(requirement.name)
    if version is None:
        return f"{requirement.name}{requirement.specifier} (not installed)"
    if version and not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name}{requirement.specifier} (installed: {version})"
    return ""


@functools.cache
def _needed(text: str) -> Requirement | None:
    """A requirement as metadata writes it; None where its marker leaves it out here. Kept: plugins have most of theirs in common, and each
    use of a component looks at them again."""
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    return requirement if requirement.marker is None or requirement.marker.evaluate({"extra": ""}) else None
