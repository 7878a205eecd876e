"""The internal request: what every protocol is translated to, and what an answer is collected in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import attrs
import orjson

from llmasos_hookspecs import (
    FinishEvent,
    PartEvent,
    Prompt,
    PromptProgress,
    ReasoningEvent,
    TextEvent,
    TokenPrompt,
    ToolCallEvent,
    UsageEvent,
)
from llmasos_serve_http.failures import Failure


@attrs.frozen(kw_only=True)
class Asked:
    """A generation that a client asked for.

    Attributes:
        prompt: text, its token ids, or chat messages.
        model: its name; None: the default.
        sampling: further arguments of ``Runtime.generate``.
        stream: the answer is to come piece by piece.
        n: how many answers of each prompt.
        more: further prompts, which are answered with it.
    """

    prompt: Prompt | TokenPrompt
    model: str | None
    sampling: Mapping[str, Any]
    stream: bool
    n: int = 1
    more: Sequence[str | TokenPrompt] = ()


@attrs.frozen(kw_only=True)
class ToolCall:
    """A whole call of a tool; ``arguments`` is JSON, unless the answer was cut within it."""

    id: str
    name: str
    arguments: str

    @property
    def complete(self) -> bool:
        """Whether the arguments are an object."""
        return self._parsed is not None

    @property
    def input(self) -> dict[str, Any]:
        """The arguments as an object; empty where the answer was cut within them."""
        return self._parsed or {}

    @cached_property
    def _parsed(self) -> dict[str, Any] | None:
        try:
            found = orjson.loads(self.arguments)
        except orjson.JSONDecodeError:
            return None
        return found if isinstance(found, dict) else None


def calls_of(pieces: Iterable[PartEvent]) -> tuple[ToolCall, ...]:
    """The calls that these pieces of one answer have."""
    found: dict[int, list[ToolCallEvent]] = {}
    for piece in pieces:
        if isinstance(piece, ToolCallEvent):
            found.setdefault(piece.call, []).append(piece)
    return tuple(
        ToolCall(id=each[0].id, name=each[0].name, arguments="".join(piece.arguments for piece in each)) for each in found.values()
    )


@attrs.frozen(kw_only=True)
class WholeAnswer:
    """One answer: its pieces joined give the text, the reasoning, and each call."""

    pieces: tuple[PartEvent, ...]
    finish: FinishEvent

    @property
    def texts(self) -> tuple[TextEvent, ...]:
        return tuple(piece for piece in self.pieces if isinstance(piece, TextEvent))

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(piece.text for piece in self.pieces if isinstance(piece, ReasoningEvent))

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return calls_of(self.pieces)


@attrs.frozen(kw_only=True)
class Collected:
    """Whole answers, several where the request asked for them."""

    pieces: tuple[PartEvent, ...]
    usage: UsageEvent
    finishes: tuple[FinishEvent, ...]

    @property
    def answers(self) -> list[WholeAnswer]:
        """Each answer, in their order."""
        return [
            WholeAnswer(pieces=tuple(piece for piece in self.pieces if piece.index == finish.index), finish=finish)
            for finish in self.finishes
        ]

    @property
    def answer(self) -> WholeAnswer:
        """The answer, where one was asked for."""
        (answer,) = self.answers
        return answer


class Rendering(Protocol):
    """An answer in the form of a protocol, whole or piece by piece. What it returns for a stream is sent as it is; empty: nothing.

    Attributes:
        media_type: of the stream.
        comment: what keeps a silent stream open; empty where the protocol has no such thing.
        progress: what tells how much of the prompt the model, which is named first, has computed; None where the client did not ask for it.
    """

    media_type: str
    comment: bytes

    @property
    def progress(self) -> Callable[[str, PromptProgress], bytes] | None: ...

    def head(self, model: str) -> bytes:
        """What comes before the first piece."""
        ...

    def piece(self, event: PartEvent) -> bytes:
        """A piece of text, of reasoning or of a call."""
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
