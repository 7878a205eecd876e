"""How an answer ended."""

from __future__ import annotations

from collections.abc import Iterable

from llmasos_hookspecs import ErrorEvent, Event, FinishEvent, LLMasOSError, UsageEvent


class Outcome:
    """The last events of an answer.

    Attributes:
        usage: tokens; none where it failed.
        finishes: of each answer, in their order; none where the request failed.
        error: why it failed, where the runtime said so.
    """

    def __init__(self) -> None:
        self.usage = UsageEvent(prompt_tokens=0, cached_tokens=0, generated_tokens=0)
        self.finishes: list[FinishEvent] = []
        self.error: LLMasOSError | None = None

    def take(self, event: Event) -> None:
        """An event that is no text."""
        match event:
            case UsageEvent():
                self.usage = event
            case FinishEvent():
                self.finishes.append(event)
            case ErrorEvent(error=error):
                self.error = error

    def take_all(self, events: Iterable[Event]) -> None:
        """Events that are no text."""
        for event in events:
            self.take(event)
