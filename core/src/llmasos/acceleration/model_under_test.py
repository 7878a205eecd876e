"""The model that is measured: engines and models, made when they are asked for and shared by all that measure it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.acceleration.backend import Backend
from llmasos.acceleration.corpus import Corpus
from llmasos.acceleration.fitting import fitting_length
from llmasos.acceleration.reference import DequantizedCheckpoint
from llmasos.system.context import ProgressSink
from llmasos_hookspecs import Checkpoint, Engine, PluginError, Progress, TaskModel, is_sealed
from llmasos_hookspecs.atomic import write_atomically


@attrs.define(eq=False, kw_only=True)
class ModelUnderTest:
    """One checkpoint on one backend, for all that measure it. A context manager: its end frees what was loaded.

    Attributes:
        label: what reports call the model.
        key: digest of all that determined the checkpoint, for ``MeasuredModel.remember``.
        base: the checkpoint to compare with; None: the model's own weights.
        open_model: the same checkpoint as applications see it.
        cache: folder of what suites remember.
        given: count and length of the evaluation windows that suites got.
        dtype: what the engine computes from; None as long as no suite has asked for it.
    """

    label: str
    checkpoint: Checkpoint
    key: str
    base: Checkpoint | None
    backend: Backend
    corpus: Corpus
    open_model: Callable[[Checkpoint], AbstractContextManager[TaskModel]]
    cache: Path
    sink: ProgressSink
    given: list[tuple[int, int]] = attrs.field(factory=list, init=False)
    dtype: str | None = attrs.field(default=None, init=False)
    _loaded: ExitStack = attrs.field(factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loaded.close()

    @cached_property
    def engine(self) -> Engine:
        engine = self._kept(self.backend.load(self.checkpoint))
        self.dtype = engine.info.dtype
        return engine

    @cached_property
    def reference(self) -> Engine:
        return self._kept(self.backend.load_reference(DequantizedCheckpoint(self.compared)))

    @cached_property
    def model(self) -> TaskModel:
        return self._loaded.enter_context(self.open_model(self.checkpoint))

    @property
    def compared(self) -> Checkpoint:
        """What the model is compared with."""
        return self.checkpoint if self.base is None else self.base

    def windows(self, windows: int, length: int) -> npt.NDArray[np.int32]:
        """As in ``MeasuredModel``; read by the tokenizer of the checkpoint that is compared with, so that all stages get the same."""
        limit = self.backend.context_length
        fitting = fitting_length(self.compared, fitting_length(self.checkpoint, length, limit))
        found = self.corpus.evaluation_windows(self.compared.tokenizer(), windows, fitting)
        self.given.append((len(found), fitting))
        return found

    def seen_by(self, suite: str) -> SeenBySuite:
        """The model as one suite sees it; ``suite`` is its name with distribution and version."""
        return SeenBySuite(self, suite)

    def _kept(self, engine: Engine) -> Engine:
        self._loaded.callback(engine.shutdown)
        return engine


class SeenBySuite:
    """Implements ``MeasuredModel``."""

    def __init__(self, model: ModelUnderTest, suite: str) -> None:
        self._model, self._suite = model, suite
        self.label = model.label
        self.checkpoint = model.checkpoint
        self.base = model.base
        self.backend = model.backend.label
        self.corpus = model.corpus.name

    def engine(self) -> Engine:
        return self._model.engine

    def reference(self) -> Engine:
        return self._model.reference

    def model(self) -> TaskModel:
        return self._model.model

    def windows(self, windows: int, length: int) -> npt.NDArray[np.int32]:
        return self._model.windows(windows, length)

    def remember(self, key: str, measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        model = self._model
        if is_sealed(model.checkpoint) or is_sealed(model.compared):
            return measure()
        parts = (self._suite, key, model.key, model.compared.digest, model.corpus.digest, model.backend.label)
        path = model.cache / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.json"
        known = _read(path)
        if known is not None:
            return known
        found = measure()
        try:
            text = json.dumps(found, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise PluginError(
                f'The {self._suite} remembers under "{key}" what is no plain data ({error}); this is a fault of the plugin.'
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        read: Mapping[str, Any] = json.loads(text)
        return read

    def progress(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Progress]:
        return self._model.sink.progress(label, total, unit)


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
