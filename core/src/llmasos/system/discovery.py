"""Which components are installed, found from metadata alone: nothing is imported.

The first scan is kept for the process; ``Registry.rescan`` looks again (after an installation, say).
"""

from __future__ import annotations

import functools
import importlib
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping

import attrs
import importlib_metadata

from llmasos.system.contract import contract_fault
from llmasos.system.requirements import installed_version, unmet_requirements
from llmasos_config.catalog import distribution_for, foreign_name, published
from llmasos_hookspecs import GROUPS, PluginError
from llmasos_hookspecs.nearest import did_you_mean, listed, nearest

#: The distribution of this module; its requirements are met, or this module could not have been imported.
CORE = "llmasos"

_KIND_OF_GROUP: Mapping[str, str] = {group: kind for kind, group in GROUPS.items()}


@attrs.frozen
class InstalledComponent:
    """One component as its distribution's metadata announces it.

    Attributes:
        kind: one of ``llmasos_hookspecs.KINDS``.
        name: the word used in config.
        module: import name of the module with the hooks.
        distribution, version: who brings it.
        requires: requirements of the distribution, as in its metadata.
        requires_python: the Python versions that it takes; empty for any.
        summary: the distribution's own description, in one line.
    """

    kind: str
    name: str
    module: str
    distribution: str
    version: str
    requires: tuple[str, ...] = attrs.field(default=(), repr=False)
    requires_python: str = attrs.field(default="", repr=False)
    summary: str = attrs.field(default="", repr=False)

    @property
    def label(self) -> str:
        """How messages name it: ``scheduler "newest" (acme-newest 1.2)``."""
        return f'{self.kind} "{self.name}" ({self.distribution} {self.version})'

    @property
    def qualified(self) -> str:
        """The ``use`` that means this entry whatever else is installed: ``dist:name``."""
        return f"{self.distribution}:{self.name}"


@attrs.frozen
class _Scan:
    entries: tuple[InstalledComponent, ...]
    unreadable: tuple[str, ...]


def normalized(distribution: str) -> str:
    """A distribution's name in the form that compares equal for equal projects (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


class Registry:
    """The installed components. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: _Scan | None = None

    def entries(self, kind: str | None = None) -> tuple[InstalledComponent, ...]:
        """Everything installed, or all of one kind, sorted by kind, name and distribution."""
        found = self._scanned().entries
        return found if kind is None else tuple(entry for entry in found if entry.kind == kind)

    def rescan(self) -> None:
        """Forget the scan, so that the next look sees what was installed or removed since."""
        with self._lock:
            self._kept = None
        # The import system remembers folder contents too, and would not see a module that pip has just written.
        importlib.invalidate_caches()

    def find(self, kind: str, use: str) -> InstalledComponent:
        """The entry that config means by ``use``: a name, or ``dist:name`` where several distributions offer the name.

        Raises:
            PluginError: nothing by that name is installed (with the package to install and the nearest name), or several
                distributions offer it (naming them).
        """
        if kind not in GROUPS:
            raise PluginError(f'"{kind}" is no kind of component; the kinds are {listed(GROUPS)}.')
        distribution, _, name = use.rpartition(":")
        installed = self.entries(kind)
        found = [entry for entry in installed if entry.name == name]
        if distribution:
            found = [entry for entry in found if normalized(entry.distribution) == normalized(distribution)]
        if not found:
            raise PluginError(self._not_installed(kind, distribution, name, installed))
        if len(found) > 1:
            raise PluginError(_doubled(found))
        return found[0]

    def named(self, name: str) -> InstalledComponent:
        """The entry that a user means by ``name``, or by ``kind:name`` where several kinds have the name.

        Raises:
            PluginError: nothing by that name is installed, several kinds have it, or several distributions offer it.
        """
        kind, colon, rest = name.partition(":")
        if colon and kind in GROUPS:
            return self.find(kind, rest)
        found = [entry for entry in self.entries() if name in (entry.name, entry.qualified)]
        kinds = sorted({entry.kind for entry in found})
        if len(kinds) > 1:
            raise PluginError(f'"{name}" is the name of several kinds: {", ".join(f"{kind}:{name}" for kind in kinds)}; say which.')
        if not found:
            raise PluginError(f'No component "{name}" is installed{did_you_mean(name, {entry.name for entry in self.entries()})}')
        return self.find(kinds[0], name)

    def problems(self) -> tuple[str, ...]:
        """One sentence for each distribution that cannot be read or lacks what it requires, and for each name that several offer.
        They harm nothing until config names them."""
        same: dict[tuple[str, str], list[InstalledComponent]] = defaultdict(list)
        for entry in self.entries():
            same[entry.kind, entry.name].append(entry)
        doubled = (_doubled(found) for found in same.values() if len(found) > 1)
        first = {entry.distribution: entry for entry in self.entries()}
        version_of = functools.cache(installed_version)
        unmet = (_unmet(entry, version_of) for entry in first.values() if entry.distribution != CORE)
        return (*self._scanned().unreadable, *doubled, *(sentence for sentence in unmet if sentence))

    def _scanned(self) -> _Scan:
        with self._lock:
            if self._kept is None:
                self._kept = _scan()
            return self._kept

    def _not_installed(self, kind: str, distribution: str, name: str, installed: tuple[InstalledComponent, ...]) -> str:
        names = sorted({entry.name for entry in installed})
        if distribution:
            others = [entry.qualified for entry in installed if entry.name == name]
            hint = f"; installed under that name: {listed(others)}" if others else ""
            return f'No {kind} "{name}" of {distribution} is installed{hint}; pip install {distribution}.'
        known = published().get(kind, {})
        if name in known:
            return f'The {kind} "{name}" is not installed; pip install {known[name]} (installed: {listed(names)}).'
        # An installed name is a likelier meaning than one that would have to be fetched first.
        close = foreign_name(kind, name) or nearest(name, names) or nearest(name, known)
        if close:
            cure = "" if close in names else f" (pip install {distribution_for(kind, close)})"
            return f'No {kind} "{name}" is installed; did you mean "{close}"{cure}? Installed: {listed(names)}.'
        package = distribution_for(kind, name)
        return f'No {kind} "{name}" is installed; pip install the package that brings it ({package}, say); installed: {listed(names)}.'


@functools.cache
def registry() -> Registry:
    """The registry of this process."""
    return Registry()


def _unmet(entry: InstalledComponent, version_of: Callable[[str], str | None]) -> str:
    fault = contract_fault(entry.requires, entry.distribution, version_of=version_of)
    if fault:
        return f"{entry.distribution} {entry.version} {fault}"
    clauses = "; ".join(unmet_requirements(entry.requires, entry.requires_python, version_of=version_of))
    return f"{entry.distribution} {entry.version} requires {clauses}; pip install --upgrade {entry.distribution}." if clauses else ""


def _doubled(found: list[InstalledComponent]) -> str:
    first = found[0]
    owners = " and ".join(f"{entry.distribution} {entry.version}" for entry in found)
    uses = " or ".join(f'use = "{entry.qualified}"' for entry in found)
    return f'The {first.kind} "{first.name}" is offered by {owners}; say which with {uses}, or uninstall one.'


def _scan() -> _Scan:
    found: list[InstalledComponent] = []
    unreadable: list[str] = []
    seen: set[str] = set()
    for distribution in importlib_metadata.distributions():
        # One small file is read for each distribution that has nothing for us; its other metadata only where it does.
        text = distribution.read_text("entry_points.txt")
        if not text or "[llmasos." not in text:
            continue
        headers = _headers(distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "")
        name, version = _only(headers, "name") or "unknown", _only(headers, "version") or "unknown"
        # The first one on sys.path is the one that Python imports; a later copy of the same project is shadowed.
        if normalized(name) in seen:
            continue
        seen.add(normalized(name))
        try:
            points = [point for point in distribution.entry_points if point.group in _KIND_OF_GROUP]
        except Exception as error:  # whatever a damaged file makes the parser raise must not hide the other plugins
            unreadable.append(f"The entry points of {name} {version} cannot be read ({error}); reinstall it or uninstall it.")
            continue
        more = tuple(headers["requires-dist"]), _only(headers, "requires-python"), _only(headers, "summary")
        found.extend(InstalledComponent(_KIND_OF_GROUP[point.group], point.name, point.value, name, version, *more) for point in points)
    return _Scan(tuple(sorted(found, key=lambda entry: (entry.kind, entry.name, entry.distribution))), tuple(unreadable))


def _headers(metadata: str) -> dict[str, list[str]]:
    """The headers of a distribution's metadata that matter here.

    Parsed by hand: the e-mail parser behind ``distribution.metadata`` reads the whole README too and took a millisecond a
    distribution, a third of what listing 100 plugins may cost.
    """
    found: dict[str, list[str]] = {"name": [], "version": [], "requires-dist": [], "requires-python": [], "summary": []}
    for line in metadata.splitlines():
        if not line:
            break
        key, _, value = line.partition(":")
        if (values := found.get(key.lower())) is not None:
            values.append(value.strip())
    return found


def _only(headers: Mapping[str, list[str]], key: str) -> str:
    values = headers[key]
    return values[0] if values else ""
