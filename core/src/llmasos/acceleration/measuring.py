"""Measures the checkpoints of one run: size, quality and speed, and what the suites say; each is loaded once for all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.acceleration.cache import content_key
from llmasos.checkpoints.plain_json import dump_json
from llmasos.evaluation import Backend, Corpus, Measurement, ModelUnderTest, NamedSuite, Quality, measure, measure_suites
from llmasos.evaluation.suites import Results
from llmasos.system.context import ProgressSink
from llmasos_hookspecs import AccelerationError, Checkpoint, Section, TaskModel
from llmasos_hookspecs.atomic import write_atomically

#: A checkpoint as applications see it, until the block ends.
OpenModel = Callable[[Checkpoint], AbstractContextManager[TaskModel]]


class StageMeasurer:
    """Measures the base and every stage. Quality is slow to measure and the same on every machine, so it is cached."""

    def __init__(
        self,
        *,
        base: Checkpoint,
        backend: Backend | None,
        corpus: Corpus,
        windows: int,
        length: int,
        suites: Sequence[NamedSuite],
        open_model: OpenModel | None,
        cache: Path,
        sink: ProgressSink,
    ) -> None:
        self._base, self._backend, self._corpus, self._suites = base, backend, corpus, suites
        self._open_model, self._cache, self._sink = open_model or _no_model, cache, sink
        self._results: dict[str, Results] = {}
        self._windows: npt.NDArray[np.int32] | None = None
        if backend is not None:
            self._windows = corpus.evaluation_windows(base.tokenizer(), windows, length)

    @property
    def count(self) -> int:
        """Count of evaluation windows; 0 where nothing is measured."""
        return 0 if self._windows is None else len(self._windows)

    def measure(self, checkpoint: Checkpoint, key: str, label: str) -> tuple[Measurement | None, Results]:
        """The figures of a checkpoint with the cache key ``key``, and what the suites measured; None and nothing where nothing is."""
        if self._backend is None or self._windows is None:
            return None, {}
        with ModelUnderTest(
            label=label,
            checkpoint=checkpoint,
            key=key,
            base=self._base,
            backend=self._backend,
            corpus=self._corpus,
            open_model=self._open_model,
            cache=self._cache / "suites",
            sink=self._sink,
        ) as model:
            measurement = self._measure(model, self._windows)
            if not self._suites:
                return measurement, {}
            self._results[label] = measure_suites(self._suites, model)
        return measurement, self._results[label]

    def sections(self) -> Mapping[str, tuple[Section, ...]]:
        """What each suite has to say of base and stages together."""
        if not self._results:
            return {}
        return {
            suite.name: suite.sections({label: results[suite.name] for label, results in self._results.items()}) for suite in self._suites
        }

    def _measure(self, model: ModelUnderTest, windows: npt.NDArray[np.int32]) -> Measurement:
        parts = {"model": model.key, "base": self._base.digest, "corpus": self._corpus.digest, "backend": model.backend.label}
        path = self._cache / "quality" / f"{content_key(**parts, windows=windows.shape)}.json"
        known = _read_quality(path)
        try:
            measurement = measure(model, windows, quality=known)
        except AccelerationError as error:
            raise AccelerationError(f'Measuring "{model.label}" failed: {error}') from error
        if known is None and math.isfinite(measurement.quality.perplexity):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, dump_json(attrs.asdict(measurement.quality)))
        return measurement


def _no_model(checkpoint: Checkpoint) -> AbstractContextManager[TaskModel]:
    raise AccelerationError(f"{checkpoint.path} is measured without a pipeline, and a suite asks for the model behind its scheduler.")


def _read_quality(path: Path) -> Quality | None:
    try:
        return Quality(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
