"""Answers of a pipeline as events, for servers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Final

from llmasos.api.part_events import PartEvents, Queued, reasoning_tokens
from llmasos.compose.answer_forms import AnswerForm
from llmasos.compose.client import Charge
from llmasos_engine.several import Arrival, Delivery, abatches_of, joined, pieces_of
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import (
    Blocked,
    ErrorEvent,
    Event,
    FinishEvent,
    Generation,
    LLMasOSError,
    PromptProgress,
    Remaining,
    UsageEvent,
)


class PipelineAnswer:
    """One request's answers in progress, one or several, as events."""

    def __init__(self, model: str, queued: Queued, charge: Charge) -> None:
        self.id: Final = queued.answers[0].id
        self.model: Final = model
        self._tickets: Final = queued.answers
        self._inner: Final = queued.inner
        self._charge = charge
        self._form = queued.form

    @property
    def left(self) -> Remaining | None:
        return self._charge.left

    @property
    def progress(self) -> PromptProgress | None:
        """Of the first answer, whose prompt the others share."""
        return self._inner[0].progress if self._inner else None

    def cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    def __iter__(self) -> Iterator[Event]:
        reading = _Reading(self._tickets, self._form)
        with contextlib.closing(pieces_of(self._tickets)) as arrivals:
            for arrival in arrivals:
                yield from reading.events((arrival,))
                if reading.failed:
                    return
        for ticket in self._inner:
            with contextlib.suppress(LLMasOSError):
                ticket.result()
        yield from reading.last(self._inner)

    async def __aiter__(self) -> AsyncIterator[Event]:
        async with contextlib.aclosing(self.batches()) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def batches(self) -> AsyncGenerator[Sequence[Event], None]:
        reading = _Reading(self._tickets, self._form)
        async with contextlib.aclosing(abatches_of(self._tickets)) as batches:
            async for batch in batches:
                if events := reading.events(batch):
                    yield events
                if reading.failed:
                    return
        await self._computed()
        yield reading.last(self._inner)

    async def deliver(self, receive: Callable[[Sequence[Event]], Awaitable[None] | None], every: float = 0.0) -> None:
        reading = _Reading(self._tickets, self._form)
        told, joins = False, every > 0 and self._form.reader() is None  # a reader finds out which tokens belong to which part

        def read(batch: Sequence[Arrival]) -> Awaitable[None] | None:
            nonlocal told
            events = reading.events(joined(batch) if joins and len(batch) > 1 else batch)
            if reading.failed:
                delivery.stop()
            elif not reading.left and all(ticket.done for ticket in self._inner):  # the last events come with the last piece
                told = True
                events += reading.last(self._inner)
            return receive(events) if events else None

        delivery = Delivery(self._tickets, read, every)
        await delivery.run()
        if not (told or reading.failed):
            await self._computed()
            if (rest := receive(reading.last(self._inner))) is not None:
                await rest

    async def _computed(self) -> None:
        """Wait until all that the engine computes has ended, which may be later than what guards let pass of it."""
        for ticket in self._inner:
            with contextlib.suppress(LLMasOSError):
                await ticket.aresult()


class _Reading:
    """What answers come to, read piece by piece.

    Attributes:
        left: answers that have not ended.
        failed: one of them has; the event of its error is the last.
    """

    def __init__(self, tickets: Sequence[Ticket[Generation]], form: AnswerForm) -> None:
        self.left = len(tickets)
        self.failed = False
        self._tickets = tickets
        self._form = form
        self._parts = [PartEvents(form, place) for place in range(len(tickets))]
        self._outcomes: list[Generation | Blocked | None] = [None] * len(tickets)

    def events(self, batch: Sequence[Arrival]) -> list[Event]:
        """The events of what has come."""
        events: list[Event] = []
        for place, piece in batch:
            if piece is not None:
                events += self._parts[place].piece(piece)
                continue
            self.left -= 1
            try:
                self._outcomes[place] = self._tickets[place].result()
            except Blocked as blocked:
                self._outcomes[place] = blocked
            except LLMasOSError as error:
                self.failed = True
                return [*events, ErrorEvent(error=error)]
        return events

    def last(self, inner: Sequence[Ticket[Generation]]) -> list[Event]:
        """The last events; ``inner`` has what the engine computed, and has ended."""
        return list(self._last(inner))

    def _last(self, inner: Sequence[Ticket[Generation]]) -> Iterator[Event]:
        for parts, outcome in zip(self._parts, self._outcomes, strict=True):
            yield from parts.end(outcome) if isinstance(outcome, Generation) else parts.kept()
        computed: list[Generation] = []
        reasoning = 0
        for ticket in inner:
            with contextlib.suppress(LLMasOSError):
                computed.append(ticket.result())
                reasoning += reasoning_tokens(self._form, ticket)
        if computed:
            yield UsageEvent(
                prompt_tokens=computed[0].prompt_tokens,
                cached_tokens=computed[0].cached_tokens,
                generated_tokens=sum(len(each.tokens) for each in computed),
                reasoning_tokens=reasoning,
            )
        for place, outcome in enumerate(self._outcomes):
            if isinstance(outcome, Blocked):
                yield FinishEvent(reason="blocked", detail=outcome.reason, index=place)
            elif outcome is not None:
                yield FinishEvent(reason=outcome.finish_reason, stop=outcome.stop, index=place)
