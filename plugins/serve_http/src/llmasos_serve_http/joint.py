"""Answers of several prompts as those of one request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import attrs

from llmasos_hookspecs import Answer, ErrorEvent, Event, FinishEvent, Prompt, PromptProgress, Remaining, TokenPrompt, UsageEvent


class Batched(Protocol):
    """What an event loop reads of a ``llmasos_hookspecs.Answer``."""

    @property
    def model(self) -> str: ...
    @property
    def left(self) -> Remaining | None: ...
    @property
    def progress(self) -> PromptProgress | None: ...
    def batches(self) -> AsyncGenerator[Sequence[Event], None]: ...
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

    async def batches(self) -> AsyncGenerator[Sequence[Event], None]:
        arrived: asyncio.Queue[list[Event] | None] = asyncio.Queue()
        usages: list[UsageEvent] = []
        finishes: list[FinishEvent] = []

        async def read(answer: Answer, first: int) -> None:
            try:
                async with contextlib.aclosing(answer.batches()) as batches:
                    async for batch in batches:
                        arrived.put_nowait([_shifted(event, first) for event in batch])
            finally:
                arrived.put_nowait(None)

        tasks = [asyncio.create_task(read(answer, place * self._n)) for place, answer in enumerate(self._answers)]
        try:
            left = len(tasks)
            while left:
                batch = await arrived.get()
                left -= batch is None
                parts: list[Event] = []
                for event in batch or ():
                    match event:
                        case UsageEvent():
                            usages.append(event)
                        case FinishEvent():
                            finishes.append(event)
                        case ErrorEvent():
                            yield [*parts, event]
                            return
                        case _:
                            parts.append(event)
                if parts:
                    yield parts
            await asyncio.gather(*tasks)
            yield [_sum(usages), *sorted(finishes, key=lambda finish: finish.index)]
        finally:
            self.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


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
