"""The internal request: what every protocol is translated to, and what an answer is collected in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from llmasos_hookspecs import FinishEvent, Prompt, TextEvent, UsageEvent
from llmasos_serve_http.failures import Failure


@attrs.frozen(kw_only=True)
class Asked:
    """A generation that a client asked for.

    Attributes:
        prompt: text, or chat messages.
        model: its name; None: the default.
        sampling: further arguments of ``Runtime.generate``.
        stream: the answer is to come piece by piece.
    """

    prompt: Prompt
    model: str | None
    sampling: Mapping[str, Any]
    stream: bool


@attrs.frozen(kw_only=True)
class Collected:
    """A whole answer: its pieces joined give the text."""

    pieces: tuple[TextEvent, ...]
    usage: UsageEvent
    finish: FinishEvent

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


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

    def end(self, usage: UsageEvent, finish: FinishEvent) -> bytes:
        """What ends an answer."""
        ...

    def failed(self, failure: Failure) -> bytes:
        """What ends an answer that failed."""
        ...

    def whole(self, model: str, answer: Collected) -> Mapping[str, Any]:
        """The body of an answer that is not streamed."""
        ...
