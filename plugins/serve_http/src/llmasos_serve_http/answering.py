"""Answers generations: awaits the runtime, and watches the client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs

from llmasos_hookspecs import Answer, Event, LLMasOSError, PartEvent, Prompt, Rejected, Runtime, TokenPrompt
from llmasos_serve_http.asked import Asked, Collected, Rendering
from llmasos_serve_http.call import Call, Left
from llmasos_serve_http.failures import STOPPED, Failure, Refused, failure_of
from llmasos_serve_http.handled import Facts
from llmasos_serve_http.joint import Batched, joint_answer
from llmasos_serve_http.keeping import Keeper, begin_stream
from llmasos_serve_http.metrics import Measure, Metrics
from llmasos_serve_http.outcome import Outcome
from llmasos_serve_http.stream import Stream

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

    def __init__(self, runtime: Runtime, metrics: Metrics, comment_every: float, stream_every: float) -> None:
        self.stopping = False
        self._metrics: Final = metrics
        self._runtime: Final = runtime
        self._comment_every: Final = comment_every
        self._stream_every: Final = stream_every
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
            leaving = call.leaving()
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
        leaving, working = call.leaving(), asyncio.ensure_future(work)
        working.add_done_callback(_heard)
        self._waiting.add(working)
        try:
            if self.stopping:
                raise Refused(STOPPED)
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not working.done():
                raise Left
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

    async def _begun(self, generating: Awaitable[Batched], leaving: asyncio.Future[None]) -> Batched:
        """The runtime's answer, which this task awaits itself: it is cancelled where the client leaves. Raises ``Left`` then."""
        task = asyncio.current_task()
        assert task is not None
        waits = True

        def leave(_: object) -> None:
            if waits:  # else the answer came in the same turn of the event loop
                task.cancel()

        leaving.add_done_callback(leave)
        self._waiting.add(task)
        try:
            with self._told():
                return await generating
        except asyncio.CancelledError:
            if leaving.done():
                task.uncancel()
                raise Left from None
            raise
        finally:
            waits = False
            self._waiting.discard(task)
            leaving.remove_done_callback(leave)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What is refused or cancelled because the server is being stopped is told so."""
        try:
            yield
        except (Rejected, asyncio.CancelledError) as error:
            if self._runtime.draining if isinstance(error, Rejected) else self.stopping:
                raise Refused(STOPPED) from None
            raise

    async def _whole(
        self, call: Call, generating: Awaitable[Batched], rendering: Rendering, leaving: asyncio.Future[None], measure: Measure
    ) -> Mapping[str, Any]:
        answer = await self._begun(generating, leaving)
        measure.accepted(answer.model)
        call.limited(answer.left)
        pieces: list[PartEvent] = []
        outcome = Outcome()

        def take(batch: Sequence[Event]) -> None:
            for event in batch:
                if isinstance(event, PartEvent):
                    measure.piece()
                    pieces.append(event)
                else:
                    outcome.take(event)

        with self._watched(call, answer, leaving):
            await answer.deliver(take, math.inf)
        if not self._ended(outcome, leaving, measure):
            raise Refused(self._reason(outcome))
        return rendering.whole(answer.model, Collected(pieces=tuple(pieces), usage=outcome.usage, finishes=tuple(outcome.finishes)))

    async def _stream(
        self, call: Call, generating: Awaitable[Batched], rendering: Rendering, leaving: asyncio.Future[None], measure: Measure
    ) -> None:
        """Answer piece by piece. Until the first piece or comment was sent, an error can still be the answer's status: of a request that
        its scheduler refuses, say."""
        keeper = Keeper(call, rendering.media_type, rendering.comment, self._comment_every)
        try:
            last = await self._streamed(call, generating, rendering, leaving, measure, keeper)
        except (Refused, LLMasOSError) as error:
            if not call.started:
                raise
            measure.failed(failure_of(error).code)
            last = rendering.failed(failure_of(error))
        finally:
            keeper.close()
        await begin_stream(call, rendering.media_type)
        await call.end(last)

    async def _streamed(
        self,
        call: Call,
        generating: Awaitable[Batched],
        rendering: Rendering,
        leaving: asyncio.Future[None],
        measure: Measure,
        keeper: Keeper,
    ) -> bytes:
        """Send all but the end of the stream, which is returned. Raises the error of an answer that failed."""
        answer = await self._begun(generating, leaving)
        measure.accepted(answer.model)
        call.limited(answer.left)
        stream = Stream(call, rendering, answer, measure, keeper)
        with self._watched(call, answer, leaving):
            await answer.deliver(stream.take, self._stream_every)
        if not self._ended(stream.outcome, leaving, measure):
            await stream.flush()
            raise Refused(self._reason(stream.outcome))
        return stream.end()

    @contextlib.contextmanager
    def _watched(self, call: Call, answer: Batched, leaving: asyncio.Future[None]) -> Iterator[None]:
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

    def _ended(self, outcome: Outcome, leaving: asyncio.Future[None], measure: Measure) -> bool:
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


def _heard(work: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any more is told to nobody."""
    if not work.cancelled():
        work.exception()
