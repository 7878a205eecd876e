"""Tickets: a caller's handle of a request in progress."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from llmasos_engine.exiting import left_behind
from llmasos_engine.wakeups import Reader, Wake, Wakeups
from llmasos_hookspecs import LLMasOSError, PromptProgress, TokenLogprob
from llmasos_hookspecs.guarding.changes import Changes

if TYPE_CHECKING:
    import asyncio  # takes 40 ms, which only who awaits pays

R = TypeVar("R")


@attrs.frozen
class Piece:
    """A piece of an answer: whole characters, and the tokens that they were made of, as far as they are told."""

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class ResultTimeout(LLMasOSError, TimeoutError):
    """The result was not ready within the caller's timeout; the request continues."""


class Ticket(Generic[R]):
    """A request's answer, piece by piece or whole; thread-safe, and usable from any event loop.

    Each iteration, ``async for`` too, yields all pieces of text from the first one, as they come. Leaving the iteration early cancels the
    request. ``result`` wakes its caller once, not once for each token.

    Attributes:
        id: of the request.
        deadline: of the request.
        followed: whether anybody has asked for the pieces, and not for the whole answer alone.
        progress: how much of the prompt is computed; None until the request leaves the queue, and where there is no prompt.
    """

    def __init__(self, request_id: str, cancel: Callable[[], None], deadline: float | None = None, wakeups: Wakeups | None = None) -> None:
        """``wakeups``: those of the engine's loop that answers; None: each event loop is woken for itself."""
        self.id = request_id
        self.deadline = deadline
        self.followed = False
        self.progress: PromptProgress | None = None
        self._cancel = cancel
        self._wakeups = wakeups or Wakeups()
        self._pieces: list[Piece] = []
        self._result: R | None = None
        self._error: LLMasOSError | None = None
        self._ending = self._done = False
        self._changes = Changes()
        self._readers = 0
        self._async_readers: list[Callable[[], object]] = []
        self._releases: list[Callable[[], object]] = []
        self._when_done: list[Callable[[], object]] = []
        self._listener: Callable[[Piece], object] | None = None
        self._prefill_listener: Callable[[PromptProgress], object] | None = None

    def __repr__(self) -> str:
        state = "running" if not self._done else "failed" if self._error else "done"
        return f"<Ticket {self.id}: {state}>"

    @property
    def done(self) -> bool:
        """Whether the request has ended, with an answer or an error."""
        return self._done

    def cancel(self) -> None:
        """Cancel the request; its slot is free within a step. Does nothing once it has ended."""
        if not self._done:
            self._cancel()

    def listen(self, listener: Callable[[Piece], object]) -> None:
        """Call ``listener`` with each piece as it comes, and at once with those so far."""
        self.followed = True
        with self._changes.lock:
            self._listener = listener
            for piece in self._pieces:
                listener(piece)

    def listen_to_prefill(self, listener: Callable[[PromptProgress], object]) -> None:
        """Call ``listener`` with ``progress`` whenever it changes, and at once where there is some already."""
        with self._changes.lock:
            self._prefill_listener = listener
            if self.progress is not None:
                listener(self.progress)

    def add_release(self, release: Callable[[], object]) -> None:
        """Call ``release`` once when the request ends, before anybody learns that it has: what it held is free then; at once where it has
        ended already."""
        with self._changes.lock:
            if not self._ending:
                self._releases.append(release)
                return
        release()

    def post(self, reader: Reader, wake: Wake) -> None:
        """Have an event loop call ``wake``, together with what else the present step of the engine has for it."""
        self._wakeups.post(reader, wake)

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` once when the request ends, on the thread that ends it; at once where it has ended already."""
        with self._changes.lock:
            if not self._done:
                self._when_done.append(callback)
                return
        callback()

    def result(self, timeout: float | None = None) -> R:
        """Wait for the whole answer. Raises the request's error, or ``ResultTimeout`` after ``timeout`` seconds.

        What a signal's handler raises meanwhile, as Ctrl-C does, cancels the request.
        """
        try:
            over = self._changes.wait_for(lambda: self._done, timeout)
        except BaseException:
            self.cancel()
            raise
        if not over:
            raise ResultTimeout(f"Request {self.id} is not finished after {timeout:g} seconds; wait longer, or cancel it.")
        return self._outcome()

    def __iter__(self) -> Generator[str, None, R]:
        """The texts of the pieces as they come; the generator returns the whole answer."""
        texts = self._texts()
        next(texts)  # begun, so that leaving it before its first piece cancels the request too
        return texts

    def pieces(self) -> Generator[Piece, None, None]:
        """The pieces as they come, with their tokens; as iterating over the texts otherwise."""
        pieces = self._iterate()
        next(pieces)
        return pieces

    def _texts(self) -> Generator[str, None, R]:
        with contextlib.closing(self._iterate()) as pieces:
            for piece in pieces:
                yield piece.text
        return self._outcome()

    def _iterate(self) -> Generator[Piece, None, None]:
        read = 0
        self.followed = True
        try:
            yield Piece("")
            while True:
                fresh, over = self._after(read)
                yield from fresh
                read += len(fresh)
                if over:
                    break
        finally:
            self.cancel()
        self._outcome()

    def _after(self, read: int) -> tuple[list[Piece], bool]:
        """Wait for the pieces after the first ``read``; also whether these are the last."""
        with self._changes.lock:
            self._readers += 1
        try:
            self._changes.wait_for(lambda: read < len(self._pieces) or self._done)
        finally:
            with self._changes.lock:
                self._readers -= 1
                fresh, over = self._pieces[read:], self._done
        return fresh, over

    async def aresult(self) -> R:
        """``result`` for an event loop. Cancelling the awaiting task cancels the request."""
        try:
            await self._wait_async(self._when_done)
        finally:
            self.cancel()
        return await self._async_outcome()

    async def __aiter__(self) -> AsyncIterator[str]:
        async with contextlib.aclosing(self.apieces()) as pieces:
            async for piece in pieces:
                yield piece.text

    async def apieces(self) -> AsyncGenerator[Piece, None]:
        """``pieces`` for an event loop."""
        read = 0
        self.followed = True
        try:
            while True:
                await self._wait_async(self._async_readers, beyond=read)
                over = self._done
                fresh = self._pieces[read:]
                for piece in fresh:
                    yield piece
                read += len(fresh)
                if over and read == len(self._pieces):
                    break
        finally:
            self.cancel()
        await self._async_outcome()

    async def _wait_async(self, callbacks: list[Callable[[], object]], beyond: int | None = None) -> None:
        """Wait until the request has ended, or has more than ``beyond`` pieces."""
        import asyncio

        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        with self._changes.lock:
            if self._done or (beyond is not None and len(self._pieces) > beyond):
                return
            callbacks.append(functools.partial(self.post, loop, functools.partial(_wake, woken)))
        await woken

    def _outcome(self) -> R:
        if self._error is not None:
            if left_behind(self._error):
                raise SystemExit
            raise self._error.with_traceback(None)  # else it grows with every caller who asks
        return self._result  # type: ignore[return-value]  # it is there once the ticket is done

    async def _async_outcome(self) -> R:
        if self._error is not None and left_behind(self._error):
            import asyncio

            await asyncio.get_running_loop().create_future()  # for ever: an event loop would report what ends its thread
        return self._outcome()

    # The other side: called by the loop's thread.

    def emit(self, text: str, tokens: tuple[int, ...] = (), logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        """Add a piece, unless its text is empty."""
        if not text:
            return
        piece = Piece(text, tokens, logprobs)
        with self._changes.lock:
            self._pieces.append(piece)
            if self._listener is not None:
                self._listener(piece)
            if self._readers:
                self._changes.tell()
            if not self._async_readers:
                return
            callbacks, self._async_readers = self._async_readers, []
        for wake in callbacks:
            wake()

    def prefilled(self, progress: PromptProgress) -> None:
        """More of the prompt is computed. Wakes nobody."""
        with self._changes.lock:
            self.progress = progress
            if self._prefill_listener is not None:
                self._prefill_listener(progress)

    def finish(self, result: R) -> None:
        """End the request with its answer."""
        self._end(result, None)

    def fail(self, error: LLMasOSError) -> None:
        """End the request with an error."""
        self._end(None, error)

    def after_fork(self, error: LLMasOSError) -> None:
        """In a forked child, where no thread will ever answer: fail, with a new lock, because a thread of the parent may have held it."""
        self._changes = Changes()
        if not self._done:
            self._readers = 0
            self._error = error
            self._ending = self._done = True

    def _end(self, result: R | None, error: LLMasOSError | None) -> None:
        with self._changes.lock:
            if self._ending:
                return
            self._ending = True
            releases, self._releases = self._releases, []
        try:
            for release in releases:
                release()
        finally:
            with self._changes.lock:
                self._result, self._error, self._done = result, error, True
                self._changes.tell()
                callbacks = self._async_readers + self._when_done
                self._async_readers, self._when_done = [], []
            for wake in callbacks:
                wake()


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():  # else its task was cancelled
        woken.set_result(None)
