"""Has suites measure the checkpoints of one run; each is loaded once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from llmasos.acceleration.backend import Backend
from llmasos.acceleration.corpus import Corpus
from llmasos.acceleration.model_under_test import ModelUnderTest
from llmasos.acceleration.suites import NamedSuite, joint_notes, joint_sections, measure
from llmasos.system.context import ProgressSink
from llmasos_hookspecs import AccelerationError, Checkpoint, Measurement, Section, TaskModel

#: A checkpoint as applications see it, until the block ends.
OpenModel = Callable[[Checkpoint], AbstractContextManager[TaskModel]]


class StageMeasurer:
    """Measures the base and every stage; without a backend, nothing.

    Attributes:
        windows, length: the most evaluation windows that a suite got, and their tokens; 0 where none asked for any.
    """

    def __init__(
        self,
        *,
        base: Checkpoint,
        backend: Backend | None,
        corpus: Corpus,
        suites: Sequence[NamedSuite],
        open_model: OpenModel | None,
        cache: Path,
        sink: ProgressSink,
    ) -> None:
        self.windows = self.length = 0
        self._base, self._backend, self._corpus, self._suites = base, backend, corpus, suites
        self._open_model, self._cache, self._sink = open_model or _no_model, cache, sink
        self._measured: dict[str, Measurement] = {}

    def measure(self, checkpoint: Checkpoint, key: str, label: str) -> Measurement | None:
        """What the suites measure of a checkpoint with the cache key ``key``."""
        if self._backend is None:
            return None
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
            try:
                found = self._measured[label] = measure(self._suites, model)
            except AccelerationError as error:
                raise AccelerationError(f'Measuring "{label}" failed: {error}') from error
        self.windows, self.length = max([(self.windows, self.length), *model.given])
        return found

    def sections(self) -> tuple[Section, ...]:
        """What the suites have to say of base and stages together."""
        return joint_sections(self._suites, {label: each.results for label, each in self._measured.items()})

    def notes(self) -> tuple[str, ...]:
        """Their notes on each and on all together."""
        return joint_notes(self._suites, {label: each.results for label, each in self._measured.items()})


def _no_model(checkpoint: Checkpoint) -> AbstractContextManager[TaskModel]:
    raise AccelerationError(f"{checkpoint.path} is measured without a pipeline, and a suite asks for the model behind its scheduler.")
