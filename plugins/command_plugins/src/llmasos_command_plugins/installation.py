"""Installing and removing plugins with the user's own pip, in the environment that this process runs in."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from llmasos_fetch_kit.clone import arguments_for, clone
from llmasos_fetch_kit.pip import pip_command
from llmasos_hookspecs import ComponentEntry, PluginError, RequestError
from llmasos_hookspecs.nearest import did_you_mean

#: The distribution of LLMasOS, and those that cannot be uninstalled by this command, because it runs on them.
_LLMASOS: Final = "llmasos"
_OWN: Final = frozenset({_LLMASOS, "llmasos-hookspecs"})

#: Kind -> name -> distribution, of components that are published.
Published = Mapping[str, Mapping[str, str]]

_UNREACHABLE: Final = re.compile(
    r"after connection broken|Could not fetch URL|Temporary failure in name resolution|ConnectionError|ReadTimeout"
)

#: What a requirement begins with.
_NAME: Final = re.compile(r"\s*([A-Za-z0-9][\w.-]*)")


@attrs.frozen(kw_only=True)
class Change:
    """One distribution that pip would install, replace or remove.

    Attributes:
        name: of the distribution.
        version: after the change; None where it is removed.
        installed: version before; None where it is new.
        origin: the file, folder or address that it comes from.
        requested: whether it was asked for, rather than required by what was.
    """

    name: str
    version: str | None
    installed: str | None
    origin: str = ""
    requested: bool = True


def requirements_for(word: str, published: Published) -> list[str]:
    """What to give pip for ``word``: for a published component's bare name its distribution, for a package of the clone that core runs
    from the folders of it and of what it lacks, and for anything else the word itself."""
    found = {distribution for names in published.values() for name, distribution in names.items() if name == word}
    meant = found.pop() if len(found) == 1 else word
    return arguments_for(meant, clone()) or [meant]


def plan_installation(arguments: Sequence[str], published: Published) -> tuple[Change, ...]:
    """What ``pip install`` with these arguments would change; nothing is changed.

    Raises:
        PluginError: pip finds no way to do it, or is missing, or core could not run with what it would install.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        _pip("install", "--dry-run", "--quiet", f"--report={report}", *arguments, published=published)
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    changes = tuple(sorted((_planned(item) for item in items), key=lambda change: (not change.requested, change.name)))
    _refuse_to_break_core(changes)
    return changes


def _refuse_to_break_core(changes: Sequence[Change]) -> None:
    """pip heeds the requirements of what it installs, and not those of what is installed: for an old plugin's sake it would take an old
    contract."""
    after = {canonicalize_name(change.name): change for change in changes}
    if _LLMASOS in after:
        return  # then pip heeds the requirements of core too
    for text in importlib.metadata.distribution(_LLMASOS).requires or ():
        requirement = Requirement(text)
        change = after.get(canonicalize_name(requirement.name))
        if change is None or change.version is None or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        if not requirement.specifier.contains(change.version, prereleases=True):
            asked = " and ".join(f"{each.name} {each.version}" for each in changes if each.requested)
            raise PluginError(
                f"{asked} would replace {change.name} {change.installed} by {change.version}, and LLMasOS needs {requirement.name}"
                f"{requirement.specifier}; nothing was changed. Install a version of it that is built for this LLMasOS."
            )


def install(arguments: Sequence[str], published: Published) -> None:
    """Run ``pip install``. Raises ``PluginError`` with what pip said where it fails."""
    _pip("install", "--quiet", *arguments, published=published)


def plan_removal(words: Iterable[str], installed: Sequence[ComponentEntry]) -> tuple[Change, ...]:
    """The distributions behind ``words``, each a distribution's name or a component's.

    Raises:
        PluginError: a word is none, or names what several distributions offer.
        RequestError: it is LLMasOS itself.
    """
    changes: dict[str, Change] = {}
    for word in words:
        entry = _owner(word, installed)
        if canonicalize_name(entry.distribution) in _OWN:
            raise RequestError(f"{entry.distribution} is LLMasOS itself; pip uninstall {entry.distribution} removes it.")
        changes[entry.distribution] = Change(name=entry.distribution, version=None, installed=entry.version)
    return tuple(changes.values())


def uninstall(names: Iterable[str]) -> None:
    """Run ``pip uninstall``. Raises ``PluginError`` with what pip said where it fails."""
    _pip("uninstall", "--yes", "--quiet", *names)


def dependants(name: str) -> tuple[str, ...]:
    """Installed distributions that require the one of that name, extras aside."""
    found, asked = set(), canonicalize_name(name)
    for distribution in importlib.metadata.distributions():
        for text in distribution.requires or ():
            word = _NAME.match(text)  # to read each requirement whole takes longer than all else that is done here
            if word is not None and canonicalize_name(word[1]) != asked:
                continue
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and canonicalize_name(requirement.name) == asked:
                found.add(distribution.metadata["Name"])
    return tuple(sorted(found))


def pinned_plugins(installed: Iterable[ComponentEntry]) -> tuple[str, ...]:
    """One pip requirement for each distribution with components, core among them: ``name==version``, or where it was installed from."""
    names = {entry.distribution: entry.version for entry in installed}
    return tuple(_pin(name, version) for name, version in sorted(names.items()))


def _pin(name: str, version: str) -> str:
    # PEP 610: only what came from elsewhere than an index has the file.
    text = importlib.metadata.distribution(name).read_text("direct_url.json")
    if not text:
        return f"{name}=={version}"
    facts = json.loads(text)
    url = str(facts["url"])
    if facts.get("dir_info", {}).get("editable"):
        return f"--editable {url}"
    if (commit := facts.get("vcs_info", {}).get("commit_id")) is not None:
        return f"{name} @ {facts['vcs_info']['vcs']}+{url}@{commit}"
    hashes = facts.get("archive_info", {}).get("hashes", {})
    digest = "".join(f"#{algorithm}={value}" for algorithm, value in list(hashes.items())[:1])
    return f"{name} @ {url}{digest}"


def _owner(word: str, entries: Collection[ComponentEntry]) -> ComponentEntry:
    by_distribution = [entry for entry in entries if canonicalize_name(entry.distribution) == canonicalize_name(word)]
    if by_distribution:
        return by_distribution[0]
    named = [entry for entry in entries if word in (entry.name, f"{entry.kind}:{entry.name}", f"{entry.distribution}:{entry.name}")]
    owners = sorted({entry.distribution for entry in named})
    if len(owners) > 1:
        raise PluginError(f'"{word}" is offered by {" and ".join(owners)}; name the distribution.')
    if not named:
        known = {entry.distribution for entry in entries} | {entry.name for entry in entries}
        raise PluginError(f'No installed plugin is or has "{word}"{did_you_mean(word, known)}')
    return named[0]


def _planned(item: dict[str, Any]) -> Change:
    name = str(item["metadata"]["name"])
    try:
        before: str | None = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        before = None
    return Change(
        name=name,
        version=str(item["metadata"]["version"]),
        installed=before,
        origin=str(item.get("download_info", {}).get("url", "")),
        requested=bool(item.get("requested")),
    )


def _pip(verb: str, *arguments: str, published: Published | None = None) -> None:
    command = pip_command("--disable-pip-version-check", "--no-input", verb, *arguments)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        raise PluginError(_failure(verb, arguments, done.stderr, published or {}))


def _failure(verb: str, arguments: Sequence[str], said: str, published: Published) -> str:
    if "No module named pip" in said:
        return f"Plugins are installed with pip, which this Python lacks; run {sys.executable} -m ensurepip, or install pip."
    if "externally-managed-environment" in said:
        return f"{sys.executable} is managed by the operating system, which forbids pip to install; use LLMasOS in a virtual environment."
    if _UNREACHABLE.search(said):
        return "The package index cannot be reached, so nothing was changed; check the network and pip's settings."
    missing = re.search(r"No matching distribution found for (\S+)", said)
    if missing:
        versions = re.search(r"\(from versions: ([^)]*)\)", said)
        if versions is not None and versions[1] not in ("none", ""):
            return f"The package index has no {missing[1]} for this Python; it has {', '.join(versions[1].split(', ')[-8:])}."
        known = {distribution for names in published.values() for distribution in names.values()}
        return f"The package index has no distribution {missing[1]} for this Python{did_you_mean(missing[1], known)}"
    errors = [line.partition("ERROR:")[2].strip() for line in said.splitlines() if "ERROR:" in line]
    lines = errors or said.strip().splitlines()[-1:] or ["nothing"]
    return f"pip {verb} {' '.join(arguments[-3:])} failed; it said: {lines[0][:300].rstrip('.')}."
