"""The context that core passes to a plugin's hook."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import (
    Adapter,
    ApartError,
    ApartLimits,
    Checkpoint,
    CheckpointWriter,
    EngineLimits,
    ModelStore,
    PluginError,
    Progress,
    ReachedComponent,
    Tokenizer,
    UnsupportedModel,
)
from llmasos_isolation import run_apart
from llmasos_model_store.digests import file_digest

_log = logging.getLogger("llmasos")

F = TypeVar("F", bound=Callable[..., Any])


class ProgressSink(Protocol):
    """Shows progress and notes to the user: with rich at the command line; the library shows none."""

    def progress(self, label: str, total: float | None, unit: str) -> AbstractContextManager[Progress]:
        """A display that is shown while the ``with`` block runs."""
        ...

    def note(self, message: str) -> None:
        """One sentence that the user should know."""
        ...


class _SilentProgress:
    def advance(self, amount: float = 1) -> None:
        pass


class SilentSink:
    """The library's own sink: progress is not shown, notes go to the log ``llmasos``."""

    def progress(self, label: str, total: float | None, unit: str) -> AbstractContextManager[Progress]:
        return nullcontext(_SilentProgress())

    def note(self, message: str) -> None:
        _log.info("%s", message)


@attrs.frozen
class _ObservedProgress:
    """A plugin's progress display; each advance is a sign of progress."""

    shown: Progress
    progressed: Callable[[], None]

    def advance(self, amount: float = 1) -> None:
        if amount > 0:
            self.progressed()
        self.shown.advance(amount)


@attrs.frozen(kw_only=True)
class HookContext:
    """The ``llmasos_hookspecs.Context`` of one hook call.

    What a context does beyond its fields is given as functions, because the system layer knows nothing of the runtime:

        reach(own name, kind, use, options) -> ReachedComponent
        open_checkpoint(path) -> Checkpoint
        open_writer(checkpoint, output) -> CheckpointWriter
        read_tokenizer(folder) -> Tokenizer
        calibration_windows(windows, length) -> int32 [windows, length]

    ``folder`` is what the plugin knows as ``cache``; None where it handles a sealed model, of which it may keep nothing.
    ``progressed`` is called whenever the plugin does something with its context, which shows that it makes progress.
    """

    name: str
    folder: Path | None = attrs.field(alias="cache")
    store: ModelStore
    seed: int = 0
    limits: EngineLimits = attrs.field(factory=EngineLimits)
    offline: bool = False
    allow_pickle: bool = False
    base: Checkpoint | None = None
    adapters: Mapping[str, Adapter] = MappingProxyType({})
    sink: ProgressSink = attrs.field(factory=SilentSink)
    reach: Callable[[str, str, str, Mapping[str, Any]], ReachedComponent] | None = None
    open_checkpoint: Callable[[Path], Checkpoint] | None = None
    open_writer: Callable[[Checkpoint, Path], CheckpointWriter] | None = None
    read_tokenizer: Callable[[Path], Tokenizer] | None = None
    calibration_windows: Callable[[int, int], npt.NDArray[np.int32]] | None = None
    progressed: Callable[[], None] = attrs.field(default=lambda: None, repr=False)

    @property
    def cache(self) -> Path:
        if self.folder is None:
            raise UnsupportedModel(
                f'The plugin "{self.name}" keeps files that it derives from a model, and of a sealed model nothing may be written in the '
                "clear; take another plugin, or unseal the model."
            )
        return self.folder

    @contextmanager
    def progress(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Progress]:
        self.progressed()
        with self.sink.progress(label, total, unit) as shown:
            yield _ObservedProgress(shown, self.progressed)

    def note(self, message: str) -> None:
        self.progressed()
        self.sink.note(message)

    def writer(self, checkpoint: Checkpoint, output: Path) -> CheckpointWriter:
        self.progressed()
        return self._given(self.open_writer, "writer")(checkpoint, output)

    def calibration(self, windows: int, length: int) -> npt.NDArray[np.int32]:
        self.progressed()
        return self._given(self.calibration_windows, "calibration")(windows, length)

    def component(self, kind: str, use: str = "", options: Mapping[str, Any] = MappingProxyType({})) -> ReachedComponent:
        return self._given(self.reach, "component")(self.name, kind, use, options)

    def tokenizer(self, folder: Path) -> Tokenizer:
        return self._given(self.read_tokenizer, "tokenizer")(folder)

    def load_checkpoint(self, path: Path) -> Checkpoint:
        self.progressed()
        return self._given(self.open_checkpoint, "load_checkpoint")(path)

    def apart(self, function: str, *arguments: Any, limits: ApartLimits | None = None) -> Any:
        try:
            return run_apart(function, *arguments, limits=limits)
        except TypeError as error:
            raise PluginError(f'The plugin "{self.name}" called context.apart wrongly: {error}; this is a fault of the plugin.') from error
        except OSError as error:
            reason = error.strerror or error
            raise ApartError(f"no process could be started for it ({reason}); free some memory or processes", "OSError") from error

    def file_digest(self, path: Path) -> str:
        return file_digest(path)

    def _given(self, function: F | None, name: str) -> F:
        if function is None:
            raise PluginError(f'The plugin "{self.name}" called context.{name}, which this hook lacks; this is a fault of the plugin.')
        return function
