"""Answers of a pipeline as events, for servers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Final

from llmasos.api.part_events import PartEvents, Queued, reasoning_tokens
from llmasos.compose.answer_forms import AnswerForm
from llmasos.compose.client import Charge
from llmasos_engine.several import abatches_of, pieces_of
from llmasos_engine.ticket import Piece, Ticket
from llmasos_hookspecs import (
    Blocked,
    ErrorEvent,
    Event,
    FinishEvent,
    Generation,
    LLMasOSError,
    PartEvent,
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
        ends = _Ends(len(self._tickets), self._form)
        with contextlib.closing(pieces_of(self._tickets)) as arrivals:
            for place, piece in arrivals:
                if piece is not None:
                    yield from ends.piece(place, piece)
                elif (error := ends.ended(place, self._tickets[place])) is not None:
                    yield error
                    return
        for ticket in self._inner:
            with contextlib.suppress(LLMasOSError):
                ticket.result()
        yield from ends.events(self._inner)

    async def __aiter__(self) -> AsyncIterator[Event]:
        async with contextlib.aclosing(self.batches()) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def batches(self) -> AsyncGenerator[Sequence[Event], None]:
        ends = _Ends(len(self._tickets), self._form)
        async with contextlib.aclosing(abatches_of(self._tickets)) as batches:
            async for batch in batches:
                events: list[Event] = []
                for place, piece in batch:
                    if piece is not None:
                        events += ends.piece(place, piece)
                    elif (error := ends.ended(place, self._tickets[place])) is not None:
                        yield [*events, error]
                        return
                if events:
                    yield events
        for ticket in self._inner:
            with contextlib.suppress(LLMasOSError):
                await ticket.aresult()
        yield list(ends.events(self._inner))


class _Ends:
    """What answers come to, one by one."""

    def __init__(self, count: int, form: AnswerForm) -> None:
        self._form = form
        self._parts = [PartEvents(form, place) for place in range(count)]
        self._outcomes: list[Generation | Blocked | None] = [None] * count

    def piece(self, place: int, piece: Piece) -> Iterator[PartEvent]:
        """The events of a piece."""
        return self._parts[place].piece(piece)

    def ended(self, place: int, ticket: Ticket[Generation]) -> ErrorEvent | None:
        """An answer has ended; the event of its error, where it failed."""
        try:
            self._outcomes[place] = ticket.result()
        except Blocked as blocked:
            self._outcomes[place] = blocked
        except LLMasOSError as error:
            return ErrorEvent(error=error)
        return None

    def events(self, inner: Sequence[Ticket[Generation]]) -> Iterator[Event]:
        """The last events; ``inner`` has what the engine computed, and has ended."""
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
