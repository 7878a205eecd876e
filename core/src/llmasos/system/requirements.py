"""Whether what a distribution says it requires is there, found from metadata alone."""

from __future__ import annotations

import platform

import importlib_metadata

from llmasos.system.discovery import Entry


def unmet_requirements(entry: Entry) -> tuple[str, ...]:
    """One clause for each requirement of the entry's distribution that this environment does not meet.

    Extras are left out: nobody said that they were wanted. A requirement that cannot be parsed counts as unmet.
    """
    # packaging costs 20 ms to import, which a process that names no plugin need not pay.
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    unmet: list[str] = []
    python = platform.python_version()
    try:
        if entry.requires_python and not SpecifierSet(entry.requires_python).contains(python, prereleases=True):
            unmet.append(f"Python {entry.requires_python} (this is {python})")
    except InvalidSpecifier:
        unmet.append(f'Python "{entry.requires_python}", which is no version specifier')
    for text in entry.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            unmet.append(f'"{text}", which is no valid requirement')
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = importlib_metadata.version(requirement.name)
        except importlib_metadata.PackageNotFoundError:
            unmet.append(f"{wanted} (not installed)")
            continue
        if version and not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{wanted} (installed: {version})")
    return tuple(unmet)
