"""Answers generations: awaits the runtime, and watches the client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

from llmasos_hookspecs import Answer, ErrorEvent, FinishEvent, LLMasOSError, Runtime, TextEvent, UsageEvent
from llmasos_serve_http.asked import Asked, Collected, Rendering
from llmasos_serve_http.call import Call, Left
from llmasos_serve_http.failures import STOPPED, Failure, Refused, failure_of

#: Headers of a stream: no proxy is to keep it back.
_STREAM: Final = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))
_NO_USAGE: Final = UsageEvent(prompt_tokens=0, cached_tokens=0, generated_tokens=0)
_CANCELLED: Final = Failure(
    status=503, type="server_error", code="cancelled", message="The answer was cancelled; send the request again.", retry_after=1.0
)
_UNENDED: Final = Failure(
    status=500, type="server_error", code="server_error", message="The answer ended without a reason; send the request again."
)


class Answering:
    """The generations in progress of one server. All of it runs on the server's event loop.

    Attributes:
        stopping: what is in progress is ended, and clients are told so.
    """

    def __init__(self, runtime: Runtime, comment_every: float) -> None:
        self.stopping = False
        self._runtime: Final = runtime
        self._comment_every: Final = comment_every
        self._answers: set[Answer] = set()
        self._waiting: set[asyncio.Future[Answer]] = set()

    def stop(self) -> None:
        """End what is in progress."""
        self.stopping = True
        for task in self._waiting:
            task.cancel()
        for answer in self._answers:
            answer.cancel()

    async def answer(self, call: Call, asked: Asked, rendering: Rendering) -> None:
        """Answer a request, whole or piece by piece.

        Raises:
            Refused, LLMasOSError: the request is refused, and nothing was sent yet.
            Left: the client has gone; the request is cancelled.
        """
        leaving = asyncio.create_task(call.left())
        try:
            if asked.stream:
                await self._stream(call, asked, rendering, leaving)
            else:
                answer = await self._begun(call, asked, leaving)
                with self._watched(answer, leaving):
                    found = await self._collected(answer, leaving)
                await call.reply(rendering.whole(answer.model, found))
        finally:
            leaving.cancel()

    async def _begun(self, call: Call, asked: Asked, leaving: asyncio.Task[None], rendering: Rendering | None = None) -> Answer:
        """The runtime's answer. A stream whose ``rendering`` is given is begun where that takes long, so that proxies keep it."""
        begun = asyncio.ensure_future(self._runtime.agenerate(call.known, asked.prompt, model=asked.model, **asked.sampling))
        self._waiting.add(begun)
        try:
            while not await self._ready(begun, leaving, rendering):
                if rendering is not None and rendering.comment:
                    if not call.started:
                        await call.begin(rendering.media_type, headers=_STREAM)
                    await call.part(rendering.comment)
            return await begun
        except BaseException as error:
            begun.cancel()
            begun.add_done_callback(_given_up)
            if isinstance(error, asyncio.CancelledError) and self.stopping:
                raise Refused(STOPPED) from None
            raise
        finally:
            self._waiting.discard(begun)

    async def _ready(self, begun: asyncio.Future[Answer], leaving: asyncio.Task[None], rendering: Rendering | None) -> bool:
        """Whether the runtime has answered; False after a silence. Raises ``Left`` where the client has gone."""
        timeout = None if rendering is None else self._comment_every
        both: set[asyncio.Future[Any]] = {begun, leaving}
        await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done() and not begun.done():
            raise Left
        return begun.done()

    async def _stream(self, call: Call, asked: Asked, rendering: Rendering, leaving: asyncio.Task[None]) -> None:
        try:
            answer = await self._begun(call, asked, leaving, rendering)
        except (Refused, LLMasOSError) as error:
            if not call.started:
                raise
            await call.part(rendering.failed(error.failure if isinstance(error, Refused) else failure_of(error)))
            await call.end()
            return
        with self._watched(answer, leaving):
            if not call.started:
                await call.begin(rendering.media_type, headers=_STREAM)
            await call.part(rendering.head(answer.model))
            keeper = _Keeper(call, rendering.comment, self._comment_every)
            try:
                async with contextlib.aclosing(self._parts(answer, rendering, leaving)) as parts:
                    async for part in parts:
                        await keeper.send(part)
            finally:
                keeper.close()
        await call.end()

    async def _parts(self, answer: Answer, rendering: Rendering, leaving: asyncio.Task[None]) -> AsyncGenerator[bytes, None]:
        usage, end = _NO_USAGE, rendering.failed(_UNENDED)
        async for event in answer:
            match event:
                case TextEvent():
                    if part := rendering.piece(event):
                        yield part
                case UsageEvent():
                    usage = event
                case FinishEvent():
                    failure = self._ended(event, leaving)
                    end = rendering.end(usage, event) if failure is None else rendering.failed(failure)
                case ErrorEvent(error=error):
                    end = rendering.failed(failure_of(error))
        yield end

    async def _collected(self, answer: Answer, leaving: asyncio.Task[None]) -> Collected:
        pieces: list[TextEvent] = []
        usage, finish, failure = _NO_USAGE, None, None
        async for event in answer:
            match event:
                case TextEvent():
                    pieces.append(event)
                case UsageEvent():
                    usage = event
                case FinishEvent():
                    finish, failure = event, self._ended(event, leaving)
                case ErrorEvent(error=error):
                    failure = failure_of(error)
        if failure is not None or finish is None:
            raise Refused(failure or _UNENDED)
        return Collected(pieces=tuple(pieces), usage=usage, finish=finish)

    @contextlib.contextmanager
    def _watched(self, answer: Answer, leaving: asyncio.Task[None]) -> Iterator[None]:
        """Cancel the answer when the client leaves, when the server stops, and where it is not read to its end."""
        self._answers.add(answer)
        if self.stopping:
            answer.cancel()
        leaving.add_done_callback(lambda _: answer.cancel())
        try:
            yield
        finally:
            self._answers.discard(answer)
            answer.cancel()

    def _ended(self, finish: FinishEvent, leaving: asyncio.Task[None]) -> Failure | None:
        """What a client is told of an answer that was cancelled, which no client asks for. Raises ``Left`` where it has gone."""
        if finish.reason != "cancelled":
            return None
        if leaving.done():
            raise Left
        return STOPPED if self.stopping else _CANCELLED


def _given_up(begun: asyncio.Future[Answer]) -> None:
    """An answer that nobody waits for is cancelled, and an error told to nobody."""
    if not begun.cancelled() and begun.exception() is None:
        begun.result().cancel()


class _Keeper:
    """Sends the parts of a stream, and a comment after each silence."""

    def __init__(self, call: Call, comment: bytes, every: float) -> None:
        self._call = call
        self._comment = comment
        self._every = every
        self._sent = time.monotonic()
        self._sending = asyncio.Lock()
        self._task = asyncio.create_task(self._keep()) if comment else None

    async def send(self, part: bytes) -> None:
        async with self._sending:  # else a comment could come within a part that waits for a slow reader
            await self._call.part(part)
        self._sent = time.monotonic()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _keep(self) -> None:
        while True:
            silent = time.monotonic() - self._sent
            if silent >= self._every:
                await self.send(self._comment)
            else:
                await asyncio.sleep(self._every - silent)
