"""Answers generations: awaits the runtime, and watches the client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs

from llmasos_hookspecs import Answer, Event, LLMasOSError, PartEvent, Prompt, Rejected, Runtime, TokenPrompt
from llmasos_serve_http.asked import Asked, Collected, Rendering
from llmasos_serve_http.call import Call, Left
from llmasos_serve_http.failures import STOPPED, Failure, Refused, failure_of
from llmasos_serve_http.handled import Facts
from llmasos_serve_http.joint import Batched, given_up, joint_answer
from llmasos_serve_http.keeping import Keeper, begin_stream
from llmasos_serve_http.metrics import Measure, Metrics
from llmasos_serve_http.outcome import Outcome
from llmasos_serve_http.prefill import EVERY, Prefill

R = TypeVar("R")

_CANCELLED: Final = Failure(
    status=503, type="server_error", code="cancelled", message="The answer was cancelled; send the request again.", retry_after=1.0
)
_UNENDED: Final = Failure(
    status=500, type="server_error", code="server_error", message="The answer ended without a reason; send the request again."
)


@attrs.frozen(kw_only=True, eq=False)
class Generation:
    """A generation in progress.

    Attributes:
        id: a number that no other generation of the server has; clients choose their own request ids, so those may repeat.
        began: when the runtime took it, by ``time.monotonic``.
        facts: what is known of its request so far.
    """

    id: str
    answer: Batched
    began: float
    facts: Facts

    @property
    def model(self) -> str:
        return self.answer.model

    @property
    def seconds(self) -> float:
        """Since the runtime took it."""
        return time.monotonic() - self.began


class Answering:
    """The generations in progress of one server. All of it runs on the server's event loop.

    Attributes:
        stopping: what is in progress is ended, and clients are told so.
    """

    def __init__(self, runtime: Runtime, metrics: Metrics, comment_every: float) -> None:
        self.stopping = False
        self._metrics: Final = metrics
        self._runtime: Final = runtime
        self._comment_every: Final = comment_every
        self._generations: dict[str, Generation] = {}
        self._numbers = itertools.count(1)
        self._waiting: set[asyncio.Future[Any]] = set()

    def stop(self) -> None:
        """End what is in progress."""
        self.stopping = True
        for task in self._waiting:
            task.cancel()
        for generation in self._generations.values():
            generation.answer.cancel()

    def in_progress(self) -> Sequence[Generation]:
        """What the runtime has taken and not ended, the oldest first."""
        return list(self._generations.values())

    def cancel(self, generation: str) -> bool:
        """End the generation of that id, whose client is told so; False where there is none."""
        found = self._generations.get(generation)
        if found is not None:
            found.answer.cancel()
        return found is not None

    async def answer(self, call: Call, asked: Asked, rendering: Rendering) -> None:
        """Answer a request, whole or piece by piece.

        Raises:
            Refused, LLMasOSError: the request is refused, and nothing was sent yet.
            Left: the client has gone; the request is cancelled.
        """
        measure = Measure(self._metrics, call.facts)
        try:
            generating = self._generating(call, asked)
            leaving = asyncio.create_task(call.left())
            try:
                if asked.stream:
                    await self._stream(call, generating, rendering, leaving, measure)
                else:
                    await call.reply(await self._whole(call, generating, rendering, leaving, measure))
            finally:
                leaving.cancel()
        except (Refused, LLMasOSError) as error:
            measure.failed(failure_of(error).code)
            raise
        finally:
            measure.close()

    async def attended(self, call: Call, work: Awaitable[R]) -> R:
        """What ``work`` comes to, while the client waits for it; to be awaited once the body was read.

        Raises:
            Left: the client has gone; ``work`` is cancelled.
            Refused: the server is being stopped.
        """
        leaving, working = asyncio.create_task(call.left()), asyncio.ensure_future(work)
        working.add_done_callback(_heard)
        self._waiting.add(working)
        try:
            if self.stopping:
                raise Refused(STOPPED)
            await self._ready(working, leaving, None)
            return await working
        except asyncio.CancelledError:
            if self.stopping:
                raise Refused(STOPPED) from None
            raise
        finally:
            self._waiting.discard(working)
            working.cancel()
            leaving.cancel()

    def _generating(self, call: Call, asked: Asked) -> Awaitable[Batched]:
        """The runtime's answer, once it is awaited. Raises ``Refused`` or the runtime's error where it is refused at once: most requests
        are where there is too much to do, and they cost no task."""
        if self.stopping:  # it was let in before, and read its body meanwhile
            raise Refused(STOPPED)

        def generate(prompt: Prompt | TokenPrompt) -> Awaitable[Answer]:
            return self._runtime.agenerate(call.known, prompt, model=asked.model, n=asked.n, **asked.sampling)

        async def together() -> Batched:
            return await joint_answer(generate, (asked.prompt, *asked.more), asked.n)

        with self._told():
            return together() if asked.more else generate(asked.prompt)

    async def _begun(
        self, call: Call, generating: Awaitable[Batched], leaving: asyncio.Task[None], rendering: Rendering | None = None
    ) -> Batched:
        """The runtime's answer. A stream whose ``rendering`` is given is begun where that takes long, so that proxies keep it."""
        begun = asyncio.ensure_future(generating)
        self._waiting.add(begun)
        try:
            with self._told():
                pause = None if rendering is None else self._comment_every
                while not await self._ready(begun, leaving, pause):
                    await _comment(call, rendering)
                return await begun
        except BaseException:
            begun.cancel()
            begun.add_done_callback(given_up)
            raise
        finally:
            self._waiting.discard(begun)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What is refused or cancelled because the server is being stopped is told so."""
        try:
            yield
        except (Rejected, asyncio.CancelledError) as error:
            if self._runtime.draining if isinstance(error, Rejected) else self.stopping:
                raise Refused(STOPPED) from None
            raise

    async def _ready(self, begun: asyncio.Future[Any], leaving: asyncio.Task[None], timeout: float | None) -> bool:
        """Whether the runtime has answered; False after ``timeout`` seconds. Raises ``Left`` where the client has gone."""
        both: set[asyncio.Future[Any]] = {begun, leaving}
        await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done() and not begun.done():
            raise Left
        return begun.done()

    async def _whole(
        self, call: Call, generating: Awaitable[Batched], rendering: Rendering, leaving: asyncio.Task[None], measure: Measure
    ) -> Mapping[str, Any]:
        answer = await self._begun(call, generating, leaving)
        measure.accepted(answer.model)
        call.limited(answer.left)
        pieces, outcome = [], Outcome()
        with self._watched(call, answer, leaving):
            async with contextlib.aclosing(answer.batches()) as batches:
                async for batch in batches:
                    for event in batch:
                        if isinstance(event, PartEvent):
                            measure.piece()
                            pieces.append(event)
                        else:
                            outcome.take(event)
        if not self._ended(outcome, leaving, measure):
            raise Refused(self._reason(outcome))
        return rendering.whole(answer.model, Collected(pieces=tuple(pieces), usage=outcome.usage, finishes=tuple(outcome.finishes)))

    async def _stream(
        self, call: Call, generating: Awaitable[Batched], rendering: Rendering, leaving: asyncio.Task[None], measure: Measure
    ) -> None:
        try:
            answer = await self._begun(call, generating, leaving, rendering)
        except (Refused, LLMasOSError) as error:
            if not call.started:
                raise
            measure.failed(failure_of(error).code)
            await call.part(rendering.failed(failure_of(error)))
            await call.end()
            return
        measure.accepted(answer.model)
        call.limited(answer.left)
        outcome, prefill = Outcome(), Prefill(rendering, answer)
        with self._watched(call, answer, leaving):
            async with contextlib.aclosing(answer.batches()) as batches:
                batch = await self._first(call, rendering, leaving, batches, prefill)
                if headed := any(isinstance(event, PartEvent) for event in batch or ()):
                    # On a task of its own: each token would else resume a dozen coroutines between the connection and here.
                    await asyncio.create_task(self._pieces(call, rendering, answer.model, batch, batches, outcome, measure, prefill))
                while batch is not None and not headed:
                    outcome.take_all(batch)
                    batch = await anext(batches, None)
        if self._ended(outcome, leaving, measure):
            end = rendering.end(outcome.usage, outcome.finishes)
            await begin_stream(call, rendering.media_type)
            await call.part(end if headed else rendering.head(answer.model) + end)
        else:
            reason = self._reason(outcome)
            if not call.started:
                raise Refused(reason)
            measure.failed(reason.code)
            await call.part(rendering.failed(reason))
        await call.end()

    async def _first(
        self,
        call: Call,
        rendering: Rendering,
        leaving: asyncio.Task[None],
        batches: AsyncIterator[Sequence[Event]],
        prefill: Prefill,
    ) -> Sequence[Event] | None:
        """The first events; None where there are none. Before them, the client hears how much of its prompt is computed.

        Until there are some, an error can still be the answer's status: a request that its scheduler refuses, say.
        """
        first = asyncio.ensure_future(anext(batches, None))
        pause = min(EVERY, self._comment_every) if prefill.asked else self._comment_every
        silent = 0.0
        try:
            while not await self._ready(first, leaving, pause):
                silent += pause
                if news := prefill.news():
                    await begin_stream(call, rendering.media_type)
                    await call.part(news)
                    silent = 0.0
                elif silent >= self._comment_every:
                    await _comment(call, rendering)
                    silent = 0.0
            return await first
        finally:
            first.cancel()
            await asyncio.wait((first,))  # an iterator that still runs could not be closed

    async def _pieces(
        self,
        call: Call,
        rendering: Rendering,
        model: str,
        batch: Sequence[Event] | None,
        batches: AsyncIterator[Sequence[Event]],
        outcome: Outcome,
        measure: Measure,
        prefill: Prefill,
    ) -> None:
        """Send ``batch``, which has a piece, and those after it, each at once; before them, how much of the prompt is computed."""
        await begin_stream(call, rendering.media_type)
        keeper = Keeper(call, rendering.comment, self._comment_every)
        parts = [prefill.news(), rendering.head(model)]
        measure.piece()
        try:
            while batch is not None:
                for event in batch:
                    if isinstance(event, PartEvent):
                        parts.append(rendering.piece(event))
                    else:
                        outcome.take(event)
                if (part := b"".join(parts)) and (rest := keeper.begin(part)) is not None:
                    await rest
                parts.clear()
                batch = await anext(batches, None)
        finally:
            keeper.close()

    @contextlib.contextmanager
    def _watched(self, call: Call, answer: Batched, leaving: asyncio.Task[None]) -> Iterator[None]:
        """Cancel the answer when the client leaves, when the server stops, and where it is not read to its end."""
        generation = Generation(id=str(next(self._numbers)), answer=answer, began=time.monotonic(), facts=call.facts)
        self._generations[generation.id] = generation
        if self.stopping:
            answer.cancel()
        leaving.add_done_callback(lambda _: answer.cancel())
        try:
            yield
        finally:
            del self._generations[generation.id]
            answer.cancel()

    def _ended(self, outcome: Outcome, leaving: asyncio.Task[None], measure: Measure) -> bool:
        """Whether the answers ended well; False where one failed, or was cancelled, which no client asks for. Raises ``Left`` where it has
        gone."""
        if not outcome.finishes:
            return False
        measure.ended(outcome.usage, outcome.finishes)
        cancelled = any(finish.reason == "cancelled" for finish in outcome.finishes)
        if cancelled and leaving.done():
            raise Left
        return not cancelled

    def _reason(self, outcome: Outcome) -> Failure:
        """Why an answer failed."""
        if outcome.error is not None:
            return failure_of(outcome.error)
        if not outcome.finishes:
            return _UNENDED
        return STOPPED if self.stopping else _CANCELLED


async def _comment(call: Call, rendering: Rendering | None) -> None:
    """Keep a stream open, where its protocol knows how."""
    if rendering is not None and rendering.comment:
        await begin_stream(call, rendering.media_type)
        await call.part(rendering.comment)


def _heard(work: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any more is told to nobody."""
    if not work.cancelled():
        work.exception()
