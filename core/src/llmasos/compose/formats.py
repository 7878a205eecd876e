"""Opens the checkpoint at a path in any format: core's own readers first, then the installed formats."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos.checkpoints.opening import read_checkpoint, unknown
from llmasos.compose.guarded_checkpoint import GuardedCheckpoint
from llmasos.system.component_calls import ComponentCalls
from llmasos.system.components import LoadedComponent, load_component
from llmasos.system.context import HookContext
from llmasos.system.descriptions import described
from llmasos_config import ComponentConfig
from llmasos_config.catalog import distribution_for, known_files, known_quantizations, known_tokenizers
from llmasos_hookspecs import Checkpoint, CheckpointError, PluginError, Tokenizer, UnsupportedModel, VirtualPath
from llmasos_hookspecs.nearest import listed
from llmasos_huggingface_folder.quantization import UnreadQuantization
from llmasos_model_store.folders import cache_folder
from llmasos_options import structure_options

_READ_TOKENIZER: Final = "llmasos_read_tokenizer"


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
        path = path if isinstance(path, Path) else Path(path)  # a path of another class stays one
        quantized = None
        try:
            if (found := read_checkpoint(path, self._own_context())) is not None:
                return found
        except UnreadQuantization as error:
            quantized = error
        broken: list[str] = []
        for loaded in self._candidates(path, broken):
            checkpoint = self._call(loaded, "llmasos_open", path, path=path)
            if checkpoint is not None:
                return GuardedCheckpoint(checkpoint, loaded.entry.label)
        raise self._unknown(path, broken) if quantized is None else self._unread(path, quantized, broken)

    def tokenizer(self, folder: Path) -> Tokenizer:
        """The tokenizer that the files in ``folder`` describe: its tokenizer.json, else what an installed format reads.

        Raises:
            CheckpointError: there is none, or it is damaged.
            UnsupportedModel: it is of a kind that is not read.
            PluginError: the format that reads it is broken.
        """
        from llmasos_tokenizing.tokenizer_json import tokenizer_from_folder  # only users of text pay for its import

        if (found := tokenizer_from_folder(folder, self._own_context())) is not None:
            return found
        broken: list[str] = []
        for loaded in self._candidates(folder, broken):
            if loaded.implements(_READ_TOKENIZER):
                tokenizer: Tokenizer | None = self._call(loaded, _READ_TOKENIZER, folder, folder=folder)
                if tokenizer is not None:
                    return tokenizer
        if (missing := self._missing(folder, known_tokenizers())) is not None:
            raise missing
        nothing = f"{folder} holds no tokenizer.json, and no other tokenizer that is read; save the model's tokenizer into it."
        raise CheckpointError(" ".join((nothing, *broken)))

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
        likely = [entry for entry in entries if entry.name == suffix]  # as a rule the last that is asked
        others = sorted((entry for entry in entries if entry.name != suffix), key=lambda entry: entry.name)
        asked: set[str] = set()
        for known in itertools.chain.from_iterable(map(described, (likely, others))):
            name = known.entry.name
            if known.problem:
                broken.append(known.problem)
            elif _has(path, known.files) and name not in asked:
                asked.add(name)  # of two distributions that offer one name, finding it says so
                try:
                    yield self.find(name)
                except PluginError as error:
                    broken.append(str(error))

    def _call(self, loaded: LoadedComponent, hook: str, place: Path, **arguments: Any) -> Any:
        """Call a format's hook. Where the files are no plain ones, perhaps because they are secret, it gets no folder to copy them to."""
        context = self.calls.context(loaded)
        if isinstance(place, VirtualPath):
            context = attrs.evolve(context, cache=None)
        calling = self.calls.plugins
        return calling.call(calling.take(loaded), hook, options=self._options(loaded), context=context, **arguments)

    def _options(self, loaded: LoadedComponent) -> Any:
        for config in self.configured.values():
            if self.calls.registry.find("format", config.use) == loaded.entry:
                return structure_options(loaded.component.options, config.options, config.path)
        return loaded.component.options()

    def _own_context(self) -> HookContext:
        """The context of core's own readers, which is one as those of plugins are."""
        return HookContext(name="huggingface", cache=cache_folder() / "checked", store=self.calls.store, read_tokenizer=self.tokenizer)

    def _names(self) -> list[str]:
        return [entry.name for entry in self.calls.registry.entries("format")]

    def _missing(self, path: Path, known: Mapping[str, str]) -> CheckpointError | None:
        """Which package to install where a path has a name that is ``known`` of a format that is not installed; None where it has none."""
        names = self._names()
        for pattern, name in known.items():
            if name not in names and _has(path, (pattern,)):
                package = distribution_for("format", name)
                what = f"holds {pattern}," if path.is_dir() else "is"
                return CheckpointError(f"{path} {what} of the format {name}, which nothing installed here reads; pip install {package}.")
        return None

    def _unread(self, path: Path, error: UnreadQuantization, broken: list[str]) -> UnsupportedModel:
        """Why the quantised weights of a folder are not read."""
        name = known_quantizations().get(error.method)
        if name is None or name in self._names():
            return UnsupportedModel(" ".join((str(error), *broken)))
        package = distribution_for("format", name)
        return UnsupportedModel(
            f"{path} holds weights that are quantised as {error.method!r}, of the format {name}, which nothing installed here reads; "
            f"pip install {package}."
        )

    def _unknown(self, path: Path, broken: list[str]) -> CheckpointError:
        if (missing := self._missing(path, known_files())) is not None:
            return missing
        names = self._names()
        more = f" The installed formats ({listed(names)}) do not read it either." if names else ""
        return CheckpointError(" ".join((f"{unknown(path)}{more}", *broken)))


def open_model(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open the checkpoint at ``path`` where there is no pipeline. Raises as ``Formats.open`` does."""
    return formats(allow_pickle=allow_pickle).open(path)


def formats(configured: Mapping[str, ComponentConfig] | None = None, **calls: Any) -> Formats:
    """The installed formats; ``calls`` are fields of ``ComponentCalls``."""
    made: list[Formats] = []
    more = {"open_checkpoint": lambda path: made[0].open(path), "read_tokenizer": lambda folder: made[0].tokenizer(folder)}
    made.append(Formats(calls=ComponentCalls(**calls, more=more), configured=configured or {}))
    return made[0]


def _has(path: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a file has one of the names, or a folder holds a file that has."""
    if not patterns:
        return True
    names = (file.name for file in path.iterdir() if file.is_file()) if path.is_dir() else [path.name]
    return any(fnmatchcase(name.lower(), pattern) for name in names for pattern in patterns)
