"""The internal request: what every protocol is translated to, and what an answer is collected in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from llmasos_hookspecs import FinishEvent, Prompt, TextEvent, TokenPrompt, UsageEvent
from llmasos_serve_http.failures import Failure


@attrs.frozen(kw_only=True)
class Asked:
    """A generation that a client asked for.

    Attributes:
        prompt: text, its token ids, or chat messages.
        model: its name; None: the default.
        sampling: further arguments of ``Runtime.generate``.
        stream: the answer is to come piece by piece.
        n: how many answers.
    """

    prompt: Prompt | TokenPrompt
    model: str | None
    sampling: Mapping[str, Any]
    stream: bool
    n: int = 1


@attrs.frozen(kw_only=True)
class Collected:
    """Whole answers, several where the request asked for them; the pieces of each, joined, give its text."""

    pieces: tuple[TextEvent, ...]
    usage: UsageEvent
    finishes: tuple[FinishEvent, ...]

    @property
    def text(self) -> str:
        """Of the first answer."""
        return "".join(piece.text for piece in self.of(0))

    @property
    def finish(self) -> FinishEvent:
        """Of the first answer."""
        return self.finishes[0]

    def of(self, index: int) -> list[TextEvent]:
        """The pieces of one answer."""
        return [piece for piece in self.pieces if piece.index == index]


class Rendering(Protocol):
    """An answer in the form of a protocol, whole or piece by piece. What it returns for a stream is sent as it is; empty: nothing.

    Attributes:
        media_type: of the stream.
        comment: what keeps a silent stream open; empty where the protocol has no such thing.
    """

    media_type: str
    comment: bytes

    def head(self, model: str) -> bytes:
        """What comes before the first piece."""
        ...

    def piece(self, event: TextEvent) -> bytes:
        """A piece of text."""
        ...

    def end(self, usage: UsageEvent, finishes: Sequence[FinishEvent]) -> bytes:
        """What ends the answers, in their order."""
        ...

    def failed(self, failure: Failure) -> bytes:
        """What ends an answer that failed."""
        ...

    def whole(self, model: str, answer: Collected) -> Mapping[str, Any]:
        """The body of an answer that is not streamed."""
        ...
