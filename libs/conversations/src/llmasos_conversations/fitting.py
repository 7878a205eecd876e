"""A conversation that outgrew the model's context, without its oldest turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmasos_hookspecs import ContextLengthExceeded


class CountingModel(Protocol):
    """What tells how many tokens messages have, and how many fit."""

    @property
    def context_length(self) -> int: ...

    def count_tokens(self, prompt: Sequence[Mapping[str, Any]]) -> int: ...


def newest_turns(model: CountingModel, messages: Sequence[dict[str, Any]], new_tokens: int) -> tuple[list[dict[str, Any]], int]:
    """The system message and as many of the newest turns as leave room for ``new_tokens``; and how many of the oldest are left out.

    Raises:
        ContextLengthExceeded: the last message alone does not fit.
    """
    head = [each for each in messages[:1] if each["role"] == "system"]
    turns = list(messages[len(head) :])
    dropped = 0
    while model.count_tokens([*head, *turns]) + new_tokens > model.context_length:
        following = next((place for place, each in enumerate(turns[1:], 1) if each["role"] == "user"), None)
        if following is None:
            raise ContextLengthExceeded(f"The message does not fit the model's context of {model.context_length} tokens; shorten it.")
        turns, dropped = turns[following:], dropped + 1
    return [*head, *turns], dropped


def left_out(dropped: int) -> str:
    """A note that tells of turns that were left out."""
    return f"[The {dropped} oldest turns do not fit the context any more and are left out.]"
