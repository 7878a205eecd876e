"""Resolves a model reference to a file or folder: aliases first, then the source of the reference's scheme."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos.system import discovery
from llmasos.system.bounds import Bounds
from llmasos.system.component_calls import ComponentCalls
from llmasos.system.components import LoadedComponent, PluginSet, load_component
from llmasos.system.context import ProgressSink, SilentSink
from llmasos.system.descriptions import described
from llmasos_config import ComponentConfig
from llmasos_config.aliases import Aliases
from llmasos_config.catalog import published, reference_forms
from llmasos_config.presets import Presets
from llmasos_hookspecs import PluginError, SourceError
from llmasos_hookspecs.nearest import did_you_mean, listed, nearest
from llmasos_model_store.folders import cache_folder
from llmasos_model_store.store import Store
from llmasos_options import structure_options

#: A single letter before a colon is a drive.
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+):", re.IGNORECASE)


@attrs.frozen(kw_only=True)
class ResolvedModel:
    """Where a model is.

    Attributes:
        reference: what was asked for.
        canonical: what it stands for once aliases are replaced; the key under which the store may hold it.
        path: the local folder or file.
        source: name of the source component that brought it.
        warnings: sentences that the user must be told.
    """

    reference: str
    canonical: str
    path: Path
    source: str
    warnings: tuple[str, ...] = ()


def resolve(
    reference: str,
    *,
    registry: discovery.Registry | None = None,
    store: Store | None = None,
    aliases: Aliases | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
    sink: ProgressSink | None = None,
    sources: Iterable[ComponentConfig] = (),
    bounds: Bounds | None = None,
) -> ResolvedModel:
    """Fetch the model that a reference names: an alias, a path, or a reference of an installed
    source's scheme. An alias takes precedence over a file of the same name; ``./name`` means the file. ``sources`` holds options for
    sources, as in config; a source that it does not name has its defaults. ``bounds``: of the calls of sources.

    Raises:
        SourceError: the reference leads nowhere (with the nearest name), or what it leads to could not be fetched, or is damaged.
        PluginError: the source that it belongs to is broken.
    """
    registry, aliases, kept = registry or discovery.registry(), aliases or Aliases(), store or Store()
    if not reference.strip():
        raise SourceError(f'The model reference is empty; name an alias such as "smollm2", a path, {reference_forms()}.')
    expansion = aliases.expand(reference.strip())
    canonical = expansion.reference
    options = {registry.find("source", config.use): config for config in sources}
    calls = ComponentCalls(
        registry=registry,
        store=kept,
        offline=offline,
        allow_pickle=allow_pickle,
        sink=sink or SilentSink(),
        plugins=PluginSet((), bounds),
    )
    for source in _sources(registry, canonical):
        config = options.get(source.entry, ComponentConfig(source.entry.name))
        chosen: Any = structure_options(source.component.options, config.options, config.path)
        with _taken_for(reference.strip(), canonical):
            path = calls.call(source, "llmasos_fetch", ref=canonical, options=chosen)
        if path is None:
            continue
        _check_place(source, canonical, path, (cache_folder(), kept.root))
        kept.check(path)
        return ResolvedModel(reference=reference, canonical=canonical, path=path, source=source.entry.name, warnings=expansion.warnings)
    raise SourceError(_unknown(canonical, expansion.aliases, aliases, registry))


@contextlib.contextmanager
def _taken_for(reference: str, canonical: str) -> Iterator[None]:
    """What is wrong with a repository that was meant by ``org/name`` alone may be that a folder was meant."""
    try:
        yield
    except SourceError as error:
        if not canonical.endswith(f":{reference}"):
            raise
        raise SourceError(f'"{reference}" is no folder here, so it was taken for {canonical}: {error}') from error


def check_reference(reference: str) -> None:
    """Raise ``SourceError`` where a reference is no alias, no path that is there, and of no scheme that an installed source may answer;
    nothing is fetched."""
    registry, aliases = discovery.registry(), Aliases()
    expansion = aliases.expand(reference.strip())
    scheme = _scheme(expansion.reference)
    sources = {entry.name for entry in registry.entries("source")}
    if not (scheme in sources or (scheme and sources - set(published()["source"])) or Path(expansion.reference).expanduser().exists()):
        raise SourceError(_unknown(expansion.reference, expansion.aliases, aliases, registry))


def _check_place(source: LoadedComponent, reference: str, path: Path, ours: Iterable[Path]) -> None:
    """A reference may climb out of where it begins only if it is a path that the user typed."""
    if source.entry.name == "path" or ".." not in re.split(r"[/\\:]", reference):
        return
    if not any(path.resolve().is_relative_to(folder.resolve()) for folder in ours):
        raise PluginError(
            f"The {source.entry.label} was led out of its place by {reference}, to {path}; name the model without .., or as a path."
        )


def _sources(registry: discovery.Registry, reference: str) -> Iterator[LoadedComponent]:
    """The sources that may answer, likeliest first: that of the scheme's name, paths, and those that say that they answer. No other is
    imported."""
    scheme = _scheme(reference)
    names = {entry.name for entry in registry.entries("source")}
    likely = [name for name in dict.fromkeys((scheme, "path")) if name in names]
    for name in likely:
        yield from _usable(registry, name, needed=name == scheme)
    others = [entry for entry in registry.entries("source") if entry.name not in likely]
    for source in described(sorted(others, key=lambda entry: entry.name)):
        if not source.problem and (not source.schemes or scheme in source.schemes):
            yield from _usable(registry, source.entry.name, needed=False)


def _usable(registry: discovery.Registry, name: str, *, needed: bool) -> Iterator[LoadedComponent]:
    try:
        yield load_component(registry.find("source", name))
    except PluginError:
        if needed:  # a broken source that the reference does not name is ignored
            raise


def _scheme(reference: str) -> str:
    match = _SCHEME.match(reference)
    return match[1].lower() if match else ""


def _unknown(reference: str, used: tuple[str, ...], aliases: Aliases, registry: discovery.Registry) -> str:
    through = f" (through the alias {used[-1]})" if used else ""
    scheme = _scheme(reference)
    if scheme:
        names = [entry.name for entry in registry.entries("source")]
        packages = published()["source"]
        if scheme in packages and scheme not in names:
            return f'"{reference}"{through} needs the source "{scheme}", which is not installed; pip install {packages[scheme]}.'
        meant = did_you_mean(scheme, {*names, *packages})
        return f'No installed source takes "{reference}"{through}; the sources are {listed(names)}{meant}'
    close = nearest(reference, {*aliases.all(), *Presets().names()})
    if close:
        return f'"{reference}"{through} is no alias and no file or folder here; did you mean "{close}"?'
    return (
        f'"{reference}"{through} is no alias and no file or folder here; name an alias ({listed(sorted(aliases.all()))}), a path, '
        f"{reference_forms()}."
    )
