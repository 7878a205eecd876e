"""The loop of one encoder: a thread that accepts texts as tokens from any number of callers, and encodes them in batches."""

from __future__ import annotations

import contextlib
import time
from collections import abc
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from llmasos_engine.encoding import EncodeJob, EncodingWork
from llmasos_engine.guarded_encoder import GuardedEncoder, Vectors
from llmasos_engine.heap import trim_heap
from llmasos_engine.supervised import CLOSE_SECONDS, STEP_SECONDS, SupervisedLoop, Work
from llmasos_engine.ticket import Ticket
from llmasos_engine.usage import Usage
from llmasos_hookspecs import ContextLengthExceeded, Encoder, EncoderInfo, EncoderRow, LLMasOSError, RequestError, RequestRecord
from llmasos_hookspecs.guarding.watchdog import Watch


class EncoderLoop(SupervisedLoop[GuardedEncoder]):
    """Runs one encoder for any number of callers, whose rows share its batches.

    An invalid row is refused by the call itself; later failures are raised by the ticket. The loop owns the encoder: ``close`` shuts it
    down. It never truncates.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        model: str = "model",
        context_length: int | None = None,
        rebuild: Callable[[], Encoder] | None = None,
        on_lost: Callable[[], None] = lambda: None,
        on_finished: Callable[[RequestRecord], None] | None = None,
        step_timeout: float = STEP_SECONDS,
        close_timeout: float = CLOSE_SECONDS,
        label: str = "encoder",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            encoder: the loaded model; from now on only the loop may call it.
            model: name of the model, for messages and records.
            context_length: tokens of one row at most; None: the encoder's.
            rebuild: makes a new encoder after this one failed; None: a failed encoder ends the loop.
            on_lost: called when the loop ends without ``close``.
            on_finished: called with the record of each request that has ended, on the loop's thread; must return quickly.
            step_timeout: seconds after which a batch that has not ended makes the model lost.
            close_timeout: seconds that ``close`` waits for a plugin call to return.
            label: names the plugin in messages.
            clock: monotonic seconds.
        """
        self.info: Final[EncoderInfo] = encoder.info
        self.context_length: Final = min(self.info.context_length, context_length or self.info.context_length)
        watch = Watch()

        def guarded(encoder: Encoder) -> GuardedEncoder:
            return GuardedEncoder(encoder, label, watch)

        super().__init__(
            guarded(encoder),
            model=model,
            watch=watch,
            label=label,
            rebuild=None if rebuild is None else lambda: guarded(rebuild()),
            on_lost=on_lost,
            step_timeout=step_timeout,
            close_timeout=close_timeout,
            clock=clock,
        )
        self._encoding = EncodingWork(self._engine, model=model, clock=clock, on_finished=on_finished)
        self._begin()

    def __repr__(self) -> str:
        return f"<EncoderLoop {self.model}: {'closed' if self._inbox.closed else self.info.pooling}>"

    @property
    def _work(self) -> Work[GuardedEncoder]:
        return self._encoding

    def check_queue(self, at_least: Callable[[], int]) -> None:
        """A queue of texts has no bound of its own; servers bound what one client may send."""

    def submit(
        self, request_id: str, rows: abc.Sequence[EncoderRow], *, tenant: str = "default", deadline: float | None = None, first: int = 1
    ) -> Ticket[Vectors]:
        """Queue the encoding of ``rows``; the ticket's result is float32 [len(rows), dimensions], in their order. ``first``: the number
        of the first row, for messages.

        Raises:
            RequestError: an empty row, or a token outside the vocabulary.
            ContextLengthExceeded: a row is longer than the context.
            ModelClosed: after ``close``.
        """
        for place, row in enumerate(rows, first):
            self._check(row, place)
        ticket: Ticket[Vectors] = Ticket(request_id, lambda: self._cancel(ticket), deadline, self._inbox.wakeups)
        self._inbox.keep(ticket)
        results = np.empty((len(rows), self.info.dimensions), dtype=np.float32)
        if not rows:
            ticket.finish(results)
            return ticket
        job = EncodeJob(tenant=tenant, rows=rows, ticket=ticket, queued=self._clock(), results=results)
        self._inbox.send(lambda: self._encoding.add(job), tickets=[ticket])
        return ticket

    def forget_prefixes(self) -> None:
        """An encoder keeps nothing of earlier texts; freed heap memory is returned to the system."""
        self._call(trim_heap)

    def usage(self) -> Usage:
        """The state of the queue now; there is no KV cache."""
        jobs = list(self._encoding.jobs)
        since = self._watch.since
        return Usage(
            model=self.model,
            waiting=sum(not job.taken for job in jobs),
            running=sum(bool(job.taken) for job in jobs),
            waiting_tokens=sum(job.tokens for job in jobs if not job.taken),
            running_tokens=sum(job.tokens for job in jobs if job.taken),
            finished=self._encoding.finished,
            kv_used=0,
            kv_cached=0,
            kv_capacity=0,
            kv_bytes_per_token=0,
            cached_prefixes=0,
            cache_hits=0,
            prefill_rate=self._encoding.rates.prefill,
            decode_rate=0.0,
            scheduler="",
            silent=0.0 if since is None else max(0.0, time.monotonic() - since),
        )

    def describe(self) -> list[dict[str, Any]]:
        """The other processes that serve the model: none."""
        return []

    def _check(self, row: EncoderRow, place: int) -> None:
        size = len(row.tokens)
        if not size:
            raise RequestError(f"Text {place} has no tokens; give at least one character.")
        if size > self.context_length:
            raise ContextLengthExceeded(
                f"Text {place} has {size} tokens, and the model takes {self.context_length}; shorten it, or allow truncate=True."
            )
        if row.types and len(row.types) != size:
            raise RequestError(f"Text {place} has {size} tokens and {len(row.types)} types; each token needs one.")
        if not 0 <= min(row.tokens) <= max(row.tokens) < self.info.vocab_size:
            raise RequestError(f"Text {place} holds a token outside the vocabulary, whose ids are below {self.info.vocab_size}.", "tokens")

    def _cancel(self, ticket: Ticket[Vectors]) -> None:
        with contextlib.suppress(LLMasOSError, SystemExit):  # the loop has ended, and so has the request
            self._inbox.send(lambda: self._encoding.cancel(ticket))
