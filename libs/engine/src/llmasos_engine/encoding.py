"""Batches of an encoder: rows of many callers are packed together, up to a number of tokens."""

from __future__ import annotations

import logging
from collections import abc
from collections.abc import Callable
from typing import Final

import attrs
import numpy as np

from llmasos_engine.guarded_encoder import GuardedEncoder, Vectors
from llmasos_engine.rates import Rates
from llmasos_engine.records import tell
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import (
    Cancelled,
    CapacityExceeded,
    EncoderRow,
    EngineFailed,
    LLMasOSError,
    RequestRecord,
    ResourceError,
)
from llmasos_hookspecs.guarding.edge import in_words

_log = logging.getLogger("llmasos_engine")


@attrs.define(eq=False)
class EncodeJob:
    """One caller's rows.

    Attributes:
        tenant: whose they are.
        rows: to be encoded.
        order: places in ``rows``, the longest rows first: batches of rows of like length waste the least, and one that is too large for the
            memory fails first.
        ticket: gets the results in the order of ``rows``.
        queued, started: seconds of the clock.
        results: float32 [len(rows), dimensions].
        taken, done: rows that went into a batch, and that came back.
    """

    tenant: str
    rows: abc.Sequence[EncoderRow]
    ticket: Ticket[Vectors]
    queued: float
    results: Vectors
    order: list[int] = attrs.field()
    started: float | None = None
    taken: int = 0
    done: int = 0

    @order.default
    def _longest_first(self) -> list[int]:
        return sorted(range(len(self.rows)), key=lambda place: -len(self.rows[place].tokens))

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return sum(len(row.tokens) for row in self.rows)

    def waiting(self) -> EncoderRow | None:
        """The next row that is in no batch yet; None where all are."""
        return self.rows[self.order[self.taken]] if self.taken < len(self.order) else None


#: A row in a batch: its job, and its place among the job's rows.
_Placed = tuple[EncodeJob, int]


class EncodingWork:
    """Accepts jobs, and encodes one batch at a time. It starts no thread.

    Every job in the queue has an equal share of a batch, so that one text is not kept waiting by a hundred thousand.

    Attributes:
        finished: count of jobs that have ended.
        moves: count of batches that were computed.
        jobs: those that have not ended, in order of arrival.
        rates: tokens a second.
    """

    def __init__(
        self, encoder: GuardedEncoder, *, model: str, clock: Callable[[], float], on_finished: Callable[[RequestRecord], None] | None = None
    ) -> None:
        self._encoder: GuardedEncoder | None = encoder
        self._model = model
        self._clock = clock
        self._on_finished = on_finished
        self.jobs: Final[list[EncodeJob]] = []  # other threads copy it, which is atomic
        self.finished = self.moves = 0
        self.rates: Final = Rates()

    def add(self, job: EncodeJob) -> None:
        """Queue a job."""
        self.jobs.append(job)

    def cancel(self, ticket: Ticket[Vectors]) -> None:
        """End the ticket's job, if it has not ended."""
        for job in self._of(ticket):
            self._fail(job, Cancelled(f"Request {ticket.id} was cancelled."), "cancelled")

    def step(self) -> bool:
        """Encode one batch; returns whether rows are left."""
        self._expire()
        batch = self._batch()
        if not batch:
            return False
        began = self._clock()
        for job, _ in batch:
            job.started = began if job.started is None else job.started
        self._encode(batch)
        self.rates.add(sum(len(job.rows[place].tokens) for job, place in batch), 0, self._clock() - began)
        return bool(self.jobs)

    def fail_all(self, error: LLMasOSError) -> None:
        """End every job with ``error``."""
        for job in list(self.jobs):
            self._fail(job, error)

    def replace_engine(self, engine: GuardedEncoder | None, error: LLMasOSError) -> None:
        """Fail the jobs that had rows in the batch that failed, and go on with another encoder; None: end all."""
        self._encoder = engine
        for job in list(self.jobs):
            if engine is None or job.taken:
                self._fail(job, error)

    def abandon(self, error: LLMasOSError) -> None:
        """The thread is given up inside the plugin: record the jobs, whose tickets are failed elsewhere."""
        for job in list(self.jobs):
            self._record(job, "error", error)

    def _batch(self) -> list[_Placed]:
        """Rows for the next call: first an equal share of each job, then what fits in order of arrival."""
        if self._encoder is None or not self.jobs:
            return []
        left = self._encoder.info.max_batch_tokens
        batch: list[_Placed] = []
        for share in (left // len(self.jobs), left):
            for job in self.jobs:
                spent = 0
                while (row := job.waiting()) is not None:
                    size = len(row.tokens)
                    if batch and (size > left or spent + size > share):
                        break
                    batch.append((job, job.order[job.taken]))
                    job.taken += 1
                    spent += size
                    left -= size
        return batch

    def _encode(self, batch: list[_Placed]) -> None:
        """Encode rows; those of a call that fails are tried again in halves, so that a row that fails fails its own job alone."""
        assert self._encoder is not None
        batch = [each for each in batch if not each[0].ticket.done]
        if not batch:
            return
        try:
            found = self._encoder.encode([job.rows[place] for job, place in batch])
        except EngineFailed:
            raise
        except Exception as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                self._encode(batch[:middle])
                self._encode(batch[middle:])
            else:
                job, place = batch[0]
                self._fail(job, self._told(error, len(job.rows[place].tokens)))
            return
        self.moves += 1
        finite = [bool(np.isfinite(vector).all()) for vector in found]
        for (job, place), vector, sound in zip(batch, found, finite, strict=True):
            if not sound:
                size = len(job.rows[place].tokens)
                self._fail(job, EngineFailed(f"The {self._encoder.label} gave numbers that are not finite for a text of {size} tokens."))
                continue
            job.results[place] = vector
            job.done += 1
            if job.done == len(job.rows):
                self._finish(job)

    def _told(self, error: Exception, tokens: int) -> LLMasOSError:
        assert self._encoder is not None
        if isinstance(error, CapacityExceeded):
            return ResourceError(f"The memory does not suffice for a text of {tokens} tokens ({str(error).rstrip('.')}); shorten it.")
        if isinstance(error, LLMasOSError):
            return error
        told = EngineFailed(f"The {self._encoder.label} failed on a text of {tokens} tokens: {in_words(error)}.")
        told.__cause__ = error
        return told

    def _of(self, ticket: Ticket[Vectors]) -> list[EncodeJob]:
        return [job for job in self.jobs if job.ticket is ticket]

    def _expire(self) -> None:
        now = self._clock()
        for job in list(self.jobs):
            if job.ticket.done:  # it passed its deadline while the plugin was computing
                self._fail(job, Cancelled(f"Request {job.ticket.id} has ended."), "cancelled")
            elif job.ticket.deadline is not None and job.ticket.deadline <= now:
                self._fail(job, Cancelled(f"Request {job.ticket.id} passed its deadline."), "cancelled")

    def _finish(self, job: EncodeJob) -> None:
        self.jobs.remove(job)
        self.finished += 1
        self._record(job, "stop", None)
        job.ticket.finish(job.results)

    def _fail(self, job: EncodeJob, error: LLMasOSError, reason: str = "error") -> None:
        if job not in self.jobs:
            return  # another of its rows failed before
        self.jobs.remove(job)
        self.finished += 1
        self._record(job, reason, error)
        job.ticket.fail(error)

    def _record(self, job: EncodeJob, reason: str, error: LLMasOSError | None) -> None:
        if self._on_finished is None:
            return
        now = self._clock()
        record = RequestRecord(
            id=job.ticket.id,
            model=self._model,
            tenant=job.tenant,
            queued=job.queued,
            started=job.started,
            first_token=now if error is None else None,
            finished=now,
            prompt_tokens=job.tokens,
            finish_reason=reason,
            error=None if error is None else str(error),
            cost=job.tokens if error is None else 0,
        )
        tell(self._on_finished, record)
