"""Answers of several prompts as those of one request."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import attrs

from llmasos_hookspecs import Answer, ErrorEvent, Event, FinishEvent, Prompt, PromptProgress, Remaining, TokenPrompt, UsageEvent

#: Gets a batch of events; what it returns is awaited before it gets the next.
Receive = Callable[[Sequence[Event]], Awaitable[None] | None]


class Batched(Protocol):
    """What an event loop reads of a ``llmasos_hookspecs.Answer``."""

    @property
    def model(self) -> str: ...
    @property
    def left(self) -> Remaining | None: ...
    @property
    def progress(self) -> PromptProgress | None: ...
    async def deliver(self, receive: Receive, every: float = 0.0) -> None: ...
    def cancel(self) -> None: ...


class JointAnswer:
    """Answers of one model: the indexes of those of the second prompt follow those of the first.

    Usage is of all together. One that fails ends the others.
    """

    def __init__(self, answers: Sequence[Answer], n: int) -> None:
        """``n``: how many each of them has."""
        self._answers: Final = answers
        self._n: Final = n

    @property
    def model(self) -> str:
        return self._answers[0].model

    @property
    def left(self) -> Remaining | None:
        """What is left after the last."""
        return self._answers[-1].left

    @property
    def progress(self) -> PromptProgress | None:
        """Of the prompts that have left the queue, all together."""
        begun = [answer.progress for answer in self._answers if answer.progress is not None]
        if not begun:
            return None
        return PromptProgress(
            total=sum(each.total for each in begun),
            cached=sum(each.cached for each in begun),
            processed=sum(each.processed for each in begun),
            seconds=max(each.seconds for each in begun),
        )

    def cancel(self) -> None:
        for answer in self._answers:
            answer.cancel()

    async def deliver(self, receive: Receive, every: float = 0.0) -> None:
        joined = _Joined(receive)
        takes = [functools.partial(joined.take, place * self._n) for place in range(len(self._answers))]
        tasks = [asyncio.create_task(answer.deliver(take, every)) for answer, take in zip(self._answers, takes, strict=True)]
        failed: Sequence[Event] = ()
        try:
            await asyncio.gather(*tasks)
        except _Failed as failure:
            failed = failure.events
        finally:
            self.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if (rest := receive(failed or joined.last())) is not None:
            await rest


class _Failed(Exception):
    """One of several answers did; ``events``: its last ones, of which the error is the last."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events: Final = events


class _Joined:
    """Passes on the parts of several answers, and keeps how they ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive: Final = receive
        self._usages: list[UsageEvent] = []
        self._finishes: list[FinishEvent] = []

    def take(self, first: int, batch: Sequence[Event]) -> Awaitable[None] | None:
        """A batch of the answers from ``first`` on. Raises ``_Failed`` where one has."""
        parts: list[Event] = []
        for event in batch:
            shifted = _shifted(event, first)
            match shifted:
                case UsageEvent():
                    self._usages.append(shifted)
                case FinishEvent():
                    self._finishes.append(shifted)
                case ErrorEvent():
                    raise _Failed([*parts, shifted])
                case _:
                    parts.append(shifted)
        return self._receive(parts) if parts else None

    def last(self) -> Sequence[Event]:
        """The last events, once all have ended."""
        return [_sum(self._usages), *sorted(self._finishes, key=lambda finish: finish.index)]


async def joint_answer(
    generate: Callable[[Prompt | TokenPrompt], Awaitable[Answer]], prompts: Iterable[Prompt | TokenPrompt], n: int
) -> JointAnswer:
    """The answers of several prompts as one. Where one is refused, or nobody waits any more, none of them goes on."""
    begun: list[asyncio.Future[Answer]] = []
    try:
        for prompt in prompts:
            begun.append(asyncio.ensure_future(generate(prompt)))  # noqa: PERF401 - where one is refused, those before it are ended
        return JointAnswer(await asyncio.gather(*begun), n)
    except BaseException:
        for task in begun:
            task.cancel()
            task.add_done_callback(given_up)
        raise


def given_up(begun: asyncio.Future[Any]) -> None:
    """An answer that nobody waits for is cancelled, and an error told to nobody."""
    if not begun.cancelled() and begun.exception() is None:
        begun.result().cancel()


def _shifted(event: Event, first: int) -> Event:
    return event if isinstance(event, UsageEvent | ErrorEvent) or not first else attrs.evolve(event, index=event.index + first)


def _sum(usages: Sequence[UsageEvent]) -> UsageEvent:
    return UsageEvent(**{field.name: sum(getattr(usage, field.name) for usage in usages) for field in attrs.fields(UsageEvent)})
