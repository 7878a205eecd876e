"""Opens the checkpoint at a path in any format: core's own readers first, then the installed formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs

from llmasos.checkpoints.opening import read_checkpoint, read_pickled, unknown
from llmasos.compose.guarded_checkpoint import GuardedCheckpoint
from llmasos.system.catalog import distribution_for, known_files
from llmasos.system.component_calls import ComponentCalls
from llmasos.system.components import LoadedComponent, load_component
from llmasos.system.config import ComponentConfig
from llmasos.system.descriptions import described
from llmasos.system.options import structure_options
from llmasos_hookspecs import Checkpoint, CheckpointError, PluginError, Tokenizer
from llmasos_hookspecs.nearest import listed


@attrs.frozen(eq=False, kw_only=True)
class Formats:
    """The formats that can be read here.

    Attributes:
        calls: the installed components.
        configured: options of formats, as in config; a format that it does not name has its defaults.
    """

    calls: ComponentCalls
    configured: Mapping[str, ComponentConfig] = attrs.field(factory=dict)

    def open(self, path: Path) -> Checkpoint:
        """The checkpoint at ``path``. A format is imported and asked only where core does not read the path itself, and the path has a name
        that the format says it reads; the one that is named like the file's suffix comes first.

        Raises:
            CheckpointError: nothing is there, nothing there is a checkpoint, or what is there is damaged or unsafe.
            UnsupportedModel: it is a checkpoint of an architecture or a quantisation that is not read.
            PluginError: the format that reads it is broken.
        """
        path = Path(path)
        found = read_checkpoint(path)
        if found is not None:
            return found
        broken: list[str] = []
        for loaded in self._candidates(path, broken):
            options = self._options(loaded)
            checkpoint = self.calls.call(loaded, "llmasos_open", path=path, options=options)
            if checkpoint is not None:
                return GuardedCheckpoint(checkpoint, loaded.entry.label)
        if not broken and (pickled := read_pickled(path, self.calls.allow_pickle)) is not None:
            return pickled
        raise self._unknown(path, broken)

    def find(self, name: str) -> LoadedComponent:
        """An installed format by name, imported. Raises ``PluginError`` where it is not installed or is broken."""
        return load_component(self.calls.registry.find("format", name))

    def exporters(self) -> Iterator[LoadedComponent]:
        """The installed formats that can write a checkpoint; those that cannot be imported are left out."""
        for entry in self.calls.registry.entries("format"):
            try:
                loaded = load_component(entry)
            except PluginError:
                continue
            if loaded.component.exports is not None:
                yield loaded

    def _candidates(self, path: Path, broken: list[str]) -> Iterator[LoadedComponent]:
        """The formats to ask, likeliest first; what is wrong with those that cannot be asked goes to ``broken``."""
        suffix = path.suffix.lower().removeprefix(".")
        entries = self.calls.registry.entries("format")
        asked: set[str] = set()
        for known in described(sorted(entries, key=lambda entry: (entry.name != suffix, entry.name))):
            name = known.entry.name
            if known.problem:
                broken.append(known.problem)
            elif _has(path, known.files) and name not in asked:
                asked.add(name)  # of two distributions that offer one name, finding it says so
                try:
                    yield self.find(name)
                except PluginError as error:
                    broken.append(str(error))

    def _options(self, loaded: LoadedComponent) -> Any:
        for config in self.configured.values():
            if self.calls.registry.find("format", config.use) == loaded.entry:
                return structure_options(loaded.component.options, config.options, config.path)
        return loaded.component.options()

    def _unknown(self, path: Path, broken: list[str]) -> CheckpointError:
        names = [entry.name for entry in self.calls.registry.entries("format")]
        for pattern, name in known_files().items():
            if name not in names and _has(path, (pattern,)):
                package = distribution_for("format", name)
                return CheckpointError(f"{path} is of the format {name}, which nothing installed here reads; pip install {package}.")
        more = f" The installed formats ({listed(names)}) do not read it either." if names else ""
        return CheckpointError(" ".join((f"{unknown(path)}{more}", *broken)))


def open_model(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open the checkpoint at ``path`` where there is no pipeline. Raises as ``Formats.open`` does."""
    return formats(allow_pickle=allow_pickle).open(path)


def formats(configured: Mapping[str, ComponentConfig] | None = None, **calls: Any) -> Formats:
    """The installed formats; ``calls`` are fields of ``ComponentCalls``."""
    made: list[Formats] = []
    made.append(
        Formats(calls=ComponentCalls(**calls, more=context_functions(lambda path: made[0].open(path))), configured=configured or {})
    )
    return made[0]


def context_functions(open_checkpoint: Callable[[Path], Checkpoint]) -> dict[str, Any]:
    """The functions of a ``HookContext`` that read checkpoints."""
    return {"open_checkpoint": open_checkpoint, "read_tokenizer": _tokenizer}


def _tokenizer(folder: Path) -> Tokenizer:
    from llmasos.checkpoints.tokenizer import tokenizer_from_folder  # only users of text pay for its import

    return tokenizer_from_folder(folder)


def _has(path: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a file has one of the names, or a folder holds a file that has."""
    if not patterns:
        return True
    names = [path.name] if path.is_file() else (file.name for file in path.iterdir() if file.is_file())
    return any(fnmatchcase(name.lower(), pattern) for name in names for pattern in patterns)
