"""Answers of a pipeline as events, for servers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from llmasos.compose.client import Charge
from llmasos.engine.several import apieces_of, pieces_of
from llmasos.engine.ticket import Piece, Ticket
from llmasos_hookspecs import Blocked, ErrorEvent, Event, FinishEvent, Generation, LLMasOSError, TextEvent, UsageEvent


class PipelineAnswer:
    """One request's answers in progress, one or several, as events."""

    def __init__(self, model: str, tickets: Sequence[Ticket[Generation]], charge: Charge) -> None:
        """``tickets``: what passes the guards; ``charge`` knows what the engine computes for them."""
        self.id: Final = tickets[0].id
        self.model: Final = model
        self._tickets: Final = tickets
        self._charge = charge

    def cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    def __iter__(self) -> Iterator[Event]:
        ends = _Ends(len(self._tickets))
        with contextlib.closing(pieces_of(self._tickets)) as arrivals:
            for place, piece in arrivals:
                if piece is not None:
                    yield ends.text(place, piece)
                elif (error := ends.ended(place, self._tickets[place])) is not None:
                    yield error
                    return
        inner: list[Generation] = []
        for ticket in self._charge.inner:
            with contextlib.suppress(LLMasOSError):
                inner.append(ticket.result())
        yield from ends.events(inner)

    async def __aiter__(self) -> AsyncIterator[Event]:
        ends = _Ends(len(self._tickets))
        async with contextlib.aclosing(apieces_of(self._tickets)) as arrivals:
            async for place, piece in arrivals:
                if piece is not None:
                    yield ends.text(place, piece)
                elif (error := ends.ended(place, self._tickets[place])) is not None:
                    yield error
                    return
        inner: list[Generation] = []
        for ticket in self._charge.inner:
            with contextlib.suppress(LLMasOSError):
                inner.append(await ticket.aresult())
        for event in ends.events(inner):
            yield event


class _Ends:
    """What answers come to, one by one."""

    def __init__(self, count: int) -> None:
        self._told = [0] * count
        self._outcomes: list[Generation | Blocked | None] = [None] * count

    def text(self, place: int, piece: Piece) -> TextEvent:
        """The event of a piece."""
        self._told[place] += len(piece.tokens)
        return TextEvent(text=piece.text, tokens=piece.tokens, logprobs=piece.logprobs, index=place)

    def ended(self, place: int, ticket: Ticket[Generation]) -> ErrorEvent | None:
        """An answer has ended; the event of its error, where it failed."""
        try:
            self._outcomes[place] = ticket.result()
        except Blocked as blocked:
            self._outcomes[place] = blocked
        except LLMasOSError as error:
            return ErrorEvent(error=error)
        return None

    def events(self, inner: Sequence[Generation]) -> Iterator[Event]:
        """The last events; ``inner`` is what the engine computed."""
        for place, outcome in enumerate(self._outcomes):
            # Tokens without a text that ended the answer, the end token among them.
            if isinstance(outcome, Generation) and (rest := outcome.tokens[self._told[place] :]):
                logprobs = () if outcome.logprobs is None else outcome.logprobs[self._told[place] :]
                yield TextEvent(text="", tokens=rest, logprobs=logprobs, index=place)
        if inner:
            yield UsageEvent(
                prompt_tokens=inner[0].prompt_tokens,
                cached_tokens=inner[0].cached_tokens,
                generated_tokens=sum(len(each.tokens) for each in inner),
            )
        for place, outcome in enumerate(self._outcomes):
            if isinstance(outcome, Blocked):
                yield FinishEvent(reason="blocked", detail=outcome.reason, index=place)
            elif outcome is not None:
                yield FinishEvent(reason=outcome.finish_reason, stop=outcome.stop, index=place)
