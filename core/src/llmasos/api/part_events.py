"""Pieces of an answer as events of its parts: text, reasoning, and calls of tools."""

from __future__ import annotations

import contextlib
import secrets
import string
from collections.abc import Generator, Iterator, Sequence
from typing import Final

import attrs

from llmasos.compose.answer_forms import AnswerForm
from llmasos_answer_parts.parts import CallPart, Part, ReasoningPart
from llmasos_engine.several import pieces_of
from llmasos_engine.ticket import Piece, Ticket
from llmasos_hookspecs import Event, FinishEvent, Generation, PartEvent, ReasoningEvent, TextEvent, TokenLogprob, ToolCallEvent, UsageEvent

#: Mistral's templates take ids of nine letters and digits alone; clients give back those that they were given.
_ID_LENGTH: Final = 9
_ID_CHARACTERS: Final = string.ascii_letters + string.digits


@attrs.frozen
class Queued:
    """Answers that were queued.

    Attributes:
        answers: what passes the guards.
        inner: what the engine computes for them.
        form: how they are to be read.
    """

    answers: Sequence[Ticket[Generation]]
    inner: Sequence[Ticket[Generation]]
    form: AnswerForm

    def cancel(self) -> None:
        """End them."""
        for ticket in self.answers:
            ticket.cancel()


def events_of(queued: Queued) -> Generator[Event, None, None]:
    """The events of one answer as they come. It raises the error of an answer that failed; leaving it early cancels the answer."""
    (answer,), (inner,) = queued.answers, queued.inner
    parts = PartEvents(queued.form)
    with contextlib.closing(pieces_of([answer])) as arrivals:
        for _, piece in arrivals:
            if piece is not None:
                yield from parts.piece(piece)
        result = answer.result()
    yield from parts.end(result)
    computed = inner.result()
    yield UsageEvent(
        prompt_tokens=computed.prompt_tokens,
        cached_tokens=computed.cached_tokens,
        generated_tokens=len(computed.tokens),
        reasoning_tokens=reasoning_tokens(queued.form, inner),
    )
    yield FinishEvent(reason=result.finish_reason, stop=result.stop)


class PartEvents:
    """The events of one answer, piece by piece. Tokens are told with the first part that they complete, those of calls and marks
    not at all."""

    def __init__(self, form: AnswerForm, index: int = 0) -> None:
        """``index``: of the answer among several."""
        self._index = index
        self._reader = form.reader()
        self._told = 0
        self._tokens: tuple[int, ...] = ()
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def piece(self, piece: Piece) -> Sequence[PartEvent]:
        """The events that a piece completes."""
        self._told += len(piece.tokens)
        if self._reader is None:
            if not piece.text:
                return ()
            return (TextEvent(text=piece.text, tokens=piece.tokens, logprobs=piece.logprobs, index=self._index),)
        self._tokens += piece.tokens
        self._logprobs += piece.logprobs
        before = self._reader.state
        events = [self._event(part) for part in self._reader.push(piece.text)]
        if before == "inside" != self._reader.state:  # the mark's tokens belong to no text
            self._tokens, self._logprobs = (), ()
        return events

    def kept(self) -> Iterator[PartEvent]:
        """What was kept back, when no more text follows."""
        for part in () if self._reader is None else self._reader.end():
            yield self._event(part)

    def end(self, result: Generation) -> Iterator[PartEvent]:
        """The last events: what was kept back, then tokens without a text, the end token among them."""
        yield from self.kept()
        self._tokens += result.tokens[self._told :]
        self._logprobs += () if result.logprobs is None else result.logprobs[self._told :]
        if self._tokens:
            yield self._text("")

    def _event(self, part: Part) -> PartEvent:
        match part:
            case CallPart(index=call, name=name, arguments=arguments):
                self._tokens, self._logprobs = (), ()
                return ToolCallEvent(call=call, id=_new_id() if name else "", name=name, arguments=arguments, index=self._index)
            case ReasoningPart(text=text):
                tokens, self._tokens, self._logprobs = self._tokens, (), ()
                return ReasoningEvent(text=text, tokens=tokens, index=self._index)
        return self._text(part.text)

    def _text(self, text: str) -> TextEvent:
        found = TextEvent(text=text, tokens=self._tokens, logprobs=self._logprobs, index=self._index)
        self._tokens, self._logprobs = (), ()
        return found


def reasoning_tokens(form: AnswerForm, answer: Ticket[Generation]) -> int:
    """How many tokens of an answer that has ended are reasoning, its marks included; the model's own, whatever guards made of them."""
    reader = form.reader() if form.reasons else None
    if reader is None:
        return 0
    count = opening = 0
    for piece in answer.pieces():
        before = reader.state
        reader.push(piece.text)
        if reader.state == "before":
            opening += len(piece.tokens)
        elif "inside" in (before, reader.state):
            count += opening + len(piece.tokens)
            opening = 0
    return count


def _new_id() -> str:
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
