"""One step of a model: schedule, compute, sample, deliver. It starts no thread and reads no clock but the one it is given."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import operator
from collections import abc
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_engine.execute import execute
from llmasos_engine.records import finished_record, started_record, tell
from llmasos_engine.sampler import SamplingState, sample
from llmasos_engine.scheduler import Planned, Scheduler
from llmasos_engine.sequence import LogitsReader, Sequence, TokenReader
from llmasos_engine.step_meter import StepMeter
from llmasos_engine.wakeups import Wakeups
from llmasos_hookspecs import (
    Cancelled,
    CapacityExceeded,
    Engine,
    EngineFailed,
    LLMasOSError,
    Rejected,
    Request,
    RequestError,
    RequestRecord,
    RequestStarted,
    ResourceError,
)
from llmasos_hookspecs.guarding.edge import in_words
from llmasos_hookspecs.tasks import FinishReason

_log = logging.getLogger("llmasos_engine")

#: Consecutive steps in which the engine may refuse one token of the only running sequence, or a slot where nothing runs, before it fails.
_PATIENCE: Final = 8
#: Of a planned part; its functions in C leave the caches alone, as those of Python do not.
_ROW: Final = operator.attrgetter("row")

Logits = npt.NDArray[np.float32]


@attrs.define(eq=False)
class _Sampling:
    """A sequence that is being sampled in this step.

    Attributes:
        logits: float32 [n, vocab]; where the engine sampled, the token int64 [1].
        draft: the draft tokens that the logits verify.
        accepted: leading draft tokens that were confirmed so far, which is also the row of ``logits`` to sample next.
    """

    sequence: Sequence
    work: TokenReader
    logits: npt.NDArray[Any]
    draft: tuple[int, ...]
    accepted: int = 0


class Runner:
    """Accepts requests, and advances all of them by one step at a time.

    Attributes:
        finished: count of requests that have ended.
        moves: count of steps that computed something.
    """

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        *,
        clock: Callable[[], float],
        on_finished: Callable[[RequestRecord], None] | None = None,
        on_started: Callable[[RequestStarted], None] | None = None,
        meter: StepMeter | None = None,
        wakeups: Wakeups | None = None,
    ) -> None:
        """``wakeups``: of the event loops that wait for the answers; each is woken once a step."""
        self.scheduler: Final = scheduler
        self.finished = 0
        self.moves = 0
        self._engine = engine
        self._clock = clock
        self._on_finished = on_finished
        self._on_started = on_started
        self._meter = meter
        self._wakeups = wakeups or Wakeups()
        self._live: dict[str, Sequence] = {}
        self._deadlines: list[tuple[float, int, Sequence]] = []
        self._numbers = itertools.count()
        self._stalled = 0

    # Requests

    def add(self, request: Request, work: TokenReader | LogitsReader, leader: Sequence | None = None) -> Sequence | None:
        """Queue a request; None where it was refused, after ``work.fail``. It waits to fork ``leader``, which has the same prompt."""
        sequence = Sequence(request, work, self._clock)
        work.begin(sequence)
        try:
            if request.id in self._live:
                raise RequestError(f"A request with the id {request.id} is on its way already; give each request an id of its own.")
            self.scheduler.admit(sequence.shown)
        except LLMasOSError as error:
            self._record(sequence, "rejected" if isinstance(error, Rejected) else "error", error)
            work.fail(error)
            return None
        self._live[request.id] = sequence
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, next(self._numbers), sequence))
        self.scheduler.add(sequence, leader)
        return sequence

    def add_group(self, requests: abc.Sequence[Request], works: abc.Sequence[LogitsReader]) -> None:
        """Queue requests that share one prompt, are computed together and end together (the beams of a search); all or none of them."""
        sequences: list[Sequence] = []
        for request, work in zip(requests, works, strict=True):
            sequence = self.add(request, work, sequences[0] if sequences else None)
            if sequence is None:
                for other in sequences:
                    self.cancel(other.request.id)
                return
            sequences.append(sequence)
        for sequence in sequences:
            sequence.group = tuple(sequences)

    def cancel(self, request_id: str) -> None:
        """End a request early, with the text so far; does nothing where it has ended."""
        if (sequence := self._live.get(request_id)) is not None:
            self._finish(sequence, "cancelled")

    def fail_all(self, error: LLMasOSError) -> None:
        """Fail every request with ``error``."""
        for sequence in list(self._live.values()):
            self._fail(sequence, error)

    def replace_engine(self, engine: Engine | None, error: LLMasOSError) -> None:
        """Replace a lost engine: sequences that have started fail with ``error``, the others continue on ``engine``; with None all fail."""
        self.scheduler.drop_slots()
        for sequence in list(self._live.values()):
            if engine is None or sequence.started is not None:
                self._fail(sequence, error)
        if engine is not None:
            self._engine = engine
            self.scheduler.cache.replace_engine(engine)
        self.scheduler.settle()

    @property
    def next_deadline(self) -> float | None:
        """When the first deadline passes."""
        while self._deadlines and self._deadlines[0][2].state == "finished":
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    @property
    def _label(self) -> str:
        """The engine's name in messages: the plugin's, where it has a guard."""
        return str(getattr(self._engine, "label", "engine"))

    @property
    def idle(self) -> bool:
        """Whether there is no request."""
        return not self._live

    # The step

    def step(self) -> bool:
        """Run one step; False where there was nothing to do. Raises ``EngineFailed`` where the engine is lost."""
        if self._deadlines:
            self._expire()
        if self.scheduler.waiting.prompt_tokens:
            with self._wakeups:  # those that start tell of their prompts
                planned = self.scheduler.plan()
        else:
            planned = self.scheduler.plan()
        if planned:
            began = self._clock()
            computed = self._sort_out(planned, execute(self._engine, list(map(_ROW, planned))))
            ended = self._clock()
            if self._on_started is not None:
                self._tell_started(self._on_started, computed)
            prefill, decode = self.scheduler.commit(computed)
            self.scheduler.rates.add(prefill, decode, ended - began)
            if self._meter is not None and computed:
                self._meter.add(self.scheduler, prefill, decode, ended - began, ended)
            with self._wakeups:
                self._advance(computed)
        else:
            self._give_up_stuck()
        self.scheduler.settle()
        if self._meter is not None and self.idle:
            self._meter.flush(self.scheduler, self._clock())
        return bool(planned) or not self.idle

    @staticmethod
    def _tell_started(listener: Callable[[RequestStarted], None], computed: list[Planned]) -> None:
        for part in computed:
            if not part.sequence.cost:
                tell(listener, started_record(part.sequence))

    def _sort_out(self, planned: list[Planned], outcomes: list[Logits | Exception]) -> list[Planned]:
        """The rows that were computed, which get their logits. Reservations of failed rows are released. The sequence of a row on which the
        engine failed fails; a row that found no room (``CapacityExceeded``) is planned again, smaller or after something was evicted."""
        computed: list[Planned] = []
        short: list[Planned] = []
        for part, outcome in zip(planned, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self.scheduler.release([part])
                if isinstance(outcome, CapacityExceeded):
                    short.append(part)
                else:
                    self._fail(part.sequence, _broken(part.sequence, outcome))
            else:
                part.logits = outcome
                computed.append(part)
        if computed:
            self.moves += 1
            self._stalled = 0
            self.scheduler.moved()
        elif short:
            self._relieve(short[0])
        return computed

    def _relieve(self, part: Planned) -> None:
        """The engine has less room than the ledger counts: halve the rows, then evict cached prefixes, then preempt, then fail ``part``."""
        if len(part.row.tokens) > part.sequence.chunk(1)[0]:  # media that are computed whole cannot be halved
            self.scheduler.row_tokens = len(part.row.tokens) // 2
        elif self.scheduler.cache.evict():
            pass
        elif len(self.scheduler.running) > 1:
            self.scheduler.make_room(hold=True)
        elif self._stalled < _PATIENCE:
            self._stalled += 1
        else:
            self._stalled = 0
            self._fail(
                part.sequence,
                CapacityExceeded(
                    f"The {self._label} has no memory for request {part.sequence.request.id} at token {part.row.position}, though it runs "
                    f"alone; give it a smaller context or more memory."
                ),
            )

    def _advance(self, computed: list[Planned]) -> None:
        """Pass on the results of a step: sample all generations in one batch, accept tokens that the engine sampled, and give the other
        works their logits."""
        samplings: list[_Sampling] = []
        rows: list[Logits] = []
        states: list[SamplingState] = []
        for part in computed:
            sequence, logits = part.sequence, part.logits
            if sequence.on_prefill is not None:
                sequence.tell_prefill()
            if len(logits) == 0 or sequence.state == "finished":  # no more than a part of a prompt, or its group ended in this step
                continue
            work = sequence.work
            if work.reads == "tokens" and part.row.draw is not None:
                token = int(logits[0])
                self._push(_Sampling(sequence, work, logits, ()), None if token < 0 else token)
            elif work.reads == "tokens":
                samplings.append(_Sampling(sequence, work, logits, sequence.draft))
                rows.append(logits[0])
                states.append(work.sampling)
                sequence.draft = ()
            else:
                self._read(sequence, work, part.row.position + len(part.row.tokens) - len(logits), logits)
        while samplings:
            drafted: list[_Sampling] = []
            for each, chosen in zip(samplings, sample(rows, states), strict=True):
                if self._push(each, chosen):
                    drafted.append(each)
            samplings = drafted
            if samplings:
                rows, states = [each.logits[each.accepted] for each in samplings], [each.work.sampling for each in samplings]

    def _push(self, sampling: _Sampling, token: int | None) -> bool:
        """Append the sampled token; True where it equals the next draft token, so that the logits after that are valid to sample from."""
        sequence, accepted = sampling.sequence, sampling.accepted
        if token is None:
            self._fail(sequence, _broken(sequence, ValueError("its logits hold NaN or infinity, or nothing that may be chosen")))
            return False
        reason = sampling.work.push(sequence, token, sampling.logits[accepted])
        if reason is None and accepted < len(sampling.draft) and sampling.draft[accepted] == token:
            sampling.accepted += 1
            return True
        if sampling.draft:
            sampling.work.drafted(len(sampling.draft), accepted)
            self.scheduler.rewind(sequence, len(sequence.tokens) - 1)
        if reason is not None:
            self._finish(sequence, reason)
        return False

    def _read(self, sequence: Sequence, work: LogitsReader, position: int, logits: Logits) -> None:
        if not np.isfinite(logits.max()):
            self._fail(sequence, _broken(sequence, ValueError("its logits hold NaN or infinity")))
            return
        if work.accept(sequence, position, logits, self.scheduler.rewind):
            self._finish(sequence, "length")

    def _expire(self) -> None:
        """Fail the requests that are past their deadline."""
        while (deadline := self.next_deadline) is not None and deadline <= self._clock():
            _, _, sequence = heapq.heappop(self._deadlines)
            request = sequence.request
            self._fail(
                sequence,
                Cancelled(
                    f"Request {request.id} passed its deadline, {deadline - request.arrival:.3g} seconds after it came, with "
                    f"{sequence.generated} of {request.max_new_tokens} tokens generated."
                ),
                "cancelled",
            )

    def _give_up_stuck(self) -> None:
        """The scheduler planned nothing: fail the first running sequence, or the best-ranked waiting one, which cannot fit even alone.

        One that would fit, to which the engine refuses a slot though nothing runs, is tried again a few times before.
        """
        scheduler = self.scheduler
        cache = scheduler.cache
        stuck = scheduler.running[0] if scheduler.running else scheduler.waiting.best(self._clock())
        if stuck is None:
            return
        request = stuck.request
        if not scheduler.running and cache.has_room(min(len(stuck.tokens) + 1, stuck.limit)):
            self._stalled += 1
            if self._stalled <= _PATIENCE:
                return
            self._stalled = 0
            told = f"The {self._label} has no slot for request {request.id}, though nothing else runs; give it more memory."
            self._fail(stuck, CapacityExceeded(told))
            return
        self._fail(
            stuck,
            ResourceError(
                f"Request {request.id} cannot go on at {len(stuck.tokens)} tokens: the KV cache holds {cache.ledger.capacity} tokens, "
                f"and the engine has no slot or room left; raise resources.memory."
            ),
        )

    # Endings

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        for each in (sequence, *sequence.group):
            with self._leaving(each, keep=True) as leaves:
                if leaves:
                    self._record(each, reason, None)
                    each.work.finish(each, reason)

    def _fail(self, sequence: Sequence, error: LLMasOSError, reason: str = "error") -> None:
        for each in (sequence, *sequence.group):
            with self._leaving(each, keep=False) as leaves:
                if leaves:
                    self._record(each, reason, error)
                    each.work.fail(error)

    @contextlib.contextmanager
    def _leaving(self, sequence: Sequence, *, keep: bool) -> Iterator[bool]:
        """Remove a sequence; the ``with`` block then answers its caller. Yields False where it was removed before, with its group.

        Where something fails in between, the caller gets an error, because no other part of core refers to the sequence any more.
        """
        if self._live.pop(sequence.request.id, None) is None:
            yield False
            return
        self.finished += 1
        try:
            self.scheduler.finish(sequence, keep=keep)
            yield True
        except BaseException as error:
            failure = EngineFailed(f"Request {sequence.request.id} could not be ended as it should ({in_words(error)}); send it again.")
            failure.__cause__ = error
            sequence.work.fail(failure)
            raise

    def abandon(self, error: LLMasOSError) -> None:
        """Fail every request with ``error``, called on another thread while the runner's own thread hangs. Do not use the runner after."""
        for sequence in list(self._live.values()):
            self._record(sequence, "error", error)
            sequence.work.fail(error)

    def _record(self, sequence: Sequence, reason: str, error: LLMasOSError | None) -> None:
        if self._on_finished is None:
            return
        tell(self._on_finished, finished_record(sequence, self._clock(), reason, error))


def _broken(sequence: Sequence, error: Exception) -> EngineFailed:
    failure = EngineFailed(f"The engine failed on request {sequence.request.id} at token {sequence.computed}: {error}.")
    failure.__cause__ = error
    return failure
