"""``[loader] tune = true``: the loaders that take a model are timed at its first load on a machine, and ``auto`` takes the fastest.

Each runs one exchange as chat has it, a prompt of ``PROMPT`` tokens and an answer of ``ANSWER``, alone and as one of up to ``SEQUENCES``
together. The figures are remembered by the model's digest, the processor, and the versions of loaders and frameworks.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from llmasos.system.components import LoadedComponent
from llmasos.system.descriptions import Description
from llmasos.system.hardware import processor
from llmasos.system.loader_choice import choose_loader
from llmasos.system.requirements import installed_version
from llmasos_config import ComponentConfig
from llmasos_engine.guarded_engine import GuardedEngine
from llmasos_hookspecs import Checkpoint, Encoder, EncoderInfo, Engine, LLMasOSError, Row
from llmasos_hookspecs.atomic import write_atomically
from llmasos_plugin_calls.bounded import UNBOUNDED, Bound, call_within

#: The exchange that is timed: tokens of the prompt and of the answer, and sequences of a full batch.
PROMPT: Final = 128
ANSWER: Final = 64
SEQUENCES: Final = 8
#: Seconds that one loader is timed for, apart from its load and the first run of each kind.
SECONDS: Final = 1.0

#: The folder of kept timings, in that of caches.
TIMINGS: Final = "loader-timings"

_log = logging.getLogger("llmasos")

Clock = Callable[[], float]
Start = Callable[[LoadedComponent], Engine | Encoder]


@attrs.frozen
class Timings:
    """Seconds of the exchange by the loaders' labels, the fastest first."""

    seconds: Mapping[str, float]

    def ordered(self, loaders: Iterable[Description]) -> list[Description]:
        """Loaders that were timed, the fastest first, and the others behind them in the order they came in."""
        places = {label: place for place, label in enumerate(self.seconds)}
        return sorted(loaders, key=lambda loader: places.get(loader.entry.label, len(places)))

    @property
    def sentence(self) -> str:
        """Why the first was chosen."""
        figures = ", ".join(f"the {label} {seconds:.3g} s" for label, seconds in self.seconds.items())
        return f"Timed on this machine for {PROMPT} prompt and {ANSWER} answer tokens: {figures}."


class KeptTimings:
    """A folder with one small file for each model, machine and set of versions; a file that cannot be read counts as not timed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, checkpoint: Checkpoint, loaders: Sequence[Description]) -> Timings | None:
        try:
            found = json.loads(self._path(checkpoint, loaders).read_text(encoding="utf-8"))
            return Timings({str(label): float(seconds) for label, seconds in found.items()}) if found else None
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return None

    def add(self, checkpoint: Checkpoint, loaders: Sequence[Description], timings: Timings) -> None:
        """Keep timings; a disk that is full or read-only does not fail the load."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(checkpoint, loaders), json.dumps(dict(timings.seconds)))

    def _path(self, checkpoint: Checkpoint, loaders: Sequence[Description]) -> Path:
        versions = {each.entry.label: [installed_version(name) for name in sorted(each.frameworks.values())] for each in loaders}
        parts = json.dumps([checkpoint.digest, processor(), versions], sort_keys=True)
        return self._folder / f"{hashlib.sha256(parts.encode()).hexdigest()}.json"


def time_loaders(
    loaders: Iterable[Description],
    checkpoint: Checkpoint,
    config: ComponentConfig,
    start: Start,
    *,
    bound: Bound = UNBOUNDED,
    clock: Clock = time.perf_counter,
) -> Timings | None:
    """Load the loaders that take a checkpoint one after the other, and time each. One that fails is left out.

    Returns None where there is nothing to choose: fewer than two take it, or it is no decoder of text alone.

    Args:
        bound: of the questions to a loader and of its timing.
    """
    takers: list[LoadedComponent] = []
    for loader in loaders:
        with contextlib.suppress(LLMasOSError):
            takers.append(choose_loader([loader], checkpoint, config, bound).loader)
    if len(takers) < 2:
        return None
    found: dict[str, float] = {}
    for taker in takers:
        label = taker.entry.label
        try:
            engine = start(taker)
            try:
                if isinstance(engine.info, EncoderInfo) or "source" in engine.info.features:
                    return None
                timed = functools.partial(exchange_seconds, GuardedEngine(engine, label), clock=clock)
                found[label] = call_within(bound, label, "step", lambda _, timed=timed: timed())  # type: ignore[misc]  # mypy infers no type of such a lambda
            finally:
                engine.shutdown()
        except LLMasOSError as error:
            _log.warning("The %s is not chosen, because it could not be timed: %s", label, error)
    return Timings(dict(sorted(found.items(), key=lambda item: item[1]))) if found else None


def exchange_seconds(engine: Engine, *, clock: Clock = time.perf_counter, seconds: float = SECONDS) -> float:
    """Seconds of a prompt and its answer, half of the answers alone and half in a batch; each part is timed for a third of ``seconds``, and
    the median of its runs counts.
    """
    info = engine.info
    prompt = [(7 * at + 3) % info.vocab_size for at in range(max(1, min(PROMPT, info.context_length - 1)))]
    first = engine.open()

    def read() -> None:
        engine.truncate(first, 0)
        engine.step([Row(first, prompt, 0)])

    def answer(slots: Sequence[int]) -> None:
        for slot in slots:
            engine.truncate(slot, len(prompt))
        engine.step([Row(slot, prompt[:1], len(prompt), generated=True) for slot in slots])

    reading = _median(read, clock, seconds / 3)
    alone = together = _median(lambda: answer([first]), clock, seconds / 3)
    if {"fork", "batch"} <= info.features and info.max_sequences > 1:
        slots = [first, *(engine.fork(first) for _ in range(min(SEQUENCES, info.max_sequences) - 1))]
        together = _median(lambda: answer(slots), clock, seconds / 3) / len(slots)
    return reading + ANSWER * (alone + together) / 2


def _median(run: Callable[[], None], clock: Clock, seconds: float) -> float:
    run()  # the first chooses kernels and touches memory
    taken: list[float] = []
    began = clock()
    while not taken or clock() - began < seconds:
        before = clock()
        run()
        taken.append(clock() - before)
    return statistics.median(taken)
