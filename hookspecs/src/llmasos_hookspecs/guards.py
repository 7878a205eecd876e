"""The guard contract: looks at texts on their way into and out of a model; it lets them pass, replaces them, or blocks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, Protocol, TypeVar, runtime_checkable

import attrs

#: Where a guard can look: a prompt, an answer, the arguments of a call to a tool, and what the tool gave back.
Stage = Literal["input", "output", "tool_call", "tool_result"]
#: Every ``Stage``.
STAGES: Final[tuple[Stage, ...]] = ("input", "output", "tool_call", "tool_result")

T = TypeVar("T")


class Conversation:
    """What guards keep from the texts of a request to its answer: core makes one for each request, has all texts of its prompt pass with it
    in their order, and then its answers. It is never another request's, and is gone with the request.

    Requests send their messages whole, so what a guard makes of the same messages is the same in each request of a conversation.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[object, Any]] = {}  # with the guard itself, so that no other one gets its id

    def kept(self, guard: object, make: Callable[[], T]) -> T:
        """What ``guard`` keeps here: what ``make`` returns at the first call. Answers of one request pass at once, each on a thread of its
        own, so a guard writes to it only while the prompt passes."""
        if id(guard) not in self._kept:
            self._kept.setdefault(id(guard), (guard, make()))
        found: T = self._kept[id(guard)][1]
        return found


@attrs.frozen(kw_only=True)
class Passage:
    """Where a text passes.

    Attributes:
        stage: one of ``STAGES``.
        model: name of the model in the pipeline; empty where no model is meant.
        tenant: whose request it is.
        role: role of the chat message that holds the text; empty for plain prompts and answers, and for calls of tools and their results
            that are in no message yet: such a call goes to its tool, and such a result comes from there.
        conversation: the request that the text belongs to; None where it is no part of one.
    """

    stage: Stage
    model: str = ""
    tenant: str = "default"
    role: str = ""
    conversation: Conversation | None = None


@attrs.frozen
class Allow:
    """The text passes as it is."""


@attrs.frozen
class Replace:
    """``text`` passes in its place."""

    text: str


@attrs.frozen
class Block:
    """The text does not pass.

    Attributes:
        reason: for the user, a short clause: ``it holds a card number``. It must not repeat what is blocked.
        text: of an answer, what comes before the part that is blocked and may still be shown, as far as it was not released before.
    """

    reason: str
    text: str = ""


#: What a guard says of a text.
Verdict = Allow | Replace | Block


class GuardStream(Protocol):
    """One answer on its way through a guard, piece by piece; used by one thread. After a ``Block`` it is not called again."""

    def push(self, piece: str) -> str | Block:
        """The text that may be shown now that ``piece``, which is not empty, has come; the rest is kept back."""
        ...

    def end(self) -> str | Block:
        """The answer is complete: what was kept back."""
        ...


@runtime_checkable
class Guard(Protocol):
    """Looks at texts; thread-safe, and quick: callers wait for it. An exception or a stall ends the request with an error that names the
    guard; nothing passes unseen.

    A guard that can look at an answer while it is written also has ``open(passage) -> GuardStream`` and ``hold``, the number of characters
    that its streams keep back at most. However an answer is cut into pieces, what a stream releases, joined, must equal what ``check``
    makes of the whole: the text itself, ``Replace.text``, or ``Block.text``; and it blocks exactly where ``check`` does. Without ``open``
    core keeps the whole answer back and checks it at its end.

    Attributes:
        stages: at which stages it is asked.
    """

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    def check(self, text: str, passage: Passage) -> Verdict:
        """The verdict on a whole text, which depends on nothing but its arguments and what the guard keeps in ``passage.conversation``."""
        ...


@runtime_checkable
class StreamingGuard(Guard, Protocol):
    """A guard whose answers need not be kept back whole."""

    @property
    def hold(self) -> int: ...

    def open(self, passage: Passage) -> GuardStream:
        """Begin an answer."""
        ...
