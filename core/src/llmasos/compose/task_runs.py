"""Tasks that event loops wait for: on threads of their own, and ended at once where nobody waits any more."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Final, TypeVar

from llmasos_hookspecs import Rejected
from llmasos_plugin_calls.task_scope import TaskScope, task_scope
from llmasos_plugin_calls.workers import Workers
from llmasos_residency.handover import Handover

R = TypeVar("R")

#: Tasks at once.
_MOST: Final = 64
#: Tasks that wait for one of these to end.
_WAITING: Final = 1024
#: Seconds after which a client may come again that was not let in.
_RETRY: Final = 1.0


class TaskRuns:
    """The tasks in progress of one runtime. A task that is ended keeps its thread until it notices: at its next request to a model, or when
    the one that it waits for has ended."""

    def __init__(self, most: int = _MOST, waiting: int = _WAITING) -> None:
        self._workers: Final = Workers(most, "llmasos-task")
        self._most: Final = most + waiting
        self._lock = threading.Lock()
        self._count = 0

    async def run(self, work: Callable[[], R], written: Callable[[str, int], object] | None = None) -> R:
        """What ``work`` returns. Cancelling the awaiting task ends it. ``written``: see ``TaskScope``; called on the event loop.

        Raises:
            Rejected: as many tasks are in progress, or wait, as may.
        """
        scope = TaskScope(None if written is None else _on_loop(written))
        handover: Handover[R] = Handover(lambda _: None)

        def do() -> None:
            try:
                with self._place(), task_scope(scope):
                    result = work()
            except BaseException as error:
                handover.fail(error)
            else:
                handover.succeed(result)

        begun = self._begin(do)
        try:
            return await handover.take()
        finally:
            scope.end()
            self._forget(begun)

    async def stream(self, work: Callable[[], Iterator[R]]) -> AsyncGenerator[R, None]:
        """The pieces that ``work`` gives, as they come. Leaving the iteration early ends it.

        Raises:
            Rejected: as ``run``.
        """
        import asyncio  # takes 40 ms, which only who awaits pays

        scope = TaskScope()
        arrived: asyncio.Queue[R | BaseException | None] = asyncio.Queue()
        arrive = _on_loop(arrived.put_nowait)

        def do() -> None:
            try:
                with self._place(), task_scope(scope), contextlib.closing(_closable(work())) as pieces:
                    for piece in pieces:
                        scope.check()
                        arrive(piece)
            except BaseException as error:
                arrive(error)
            else:
                arrive(None)

        begun = self._begin(do)
        try:
            while (found := await arrived.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            scope.end()
            self._forget(begun)

    def close(self) -> None:
        """End the threads once nothing is in progress."""
        self._workers.close()

    def _begin(self, do: Callable[[], None]) -> Callable[[], None]:
        """Have a thread call ``do``, which is in a ``_place``. Returns what ``_forget`` takes."""
        with self._lock:
            if self._count >= self._most:
                raise Rejected(f"{self._count} tasks are in progress or wait, and no more may; send it again later.", _RETRY)
            self._count += 1
        work = functools.partial(contextvars.copy_context().run, do)
        try:
            self._workers.do(work)
        except RuntimeError:
            self._leave()
            raise Rejected("This machine has no thread left for the task; send it again later.", _RETRY) from None
        return work

    def _forget(self, begun: Callable[[], None]) -> None:
        """Nobody waits for the task any more: one that has not begun leaves its place at once."""
        if self._workers.forget(begun):
            self._leave()

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """A task's place among those that may be in progress or wait: free again before anybody has the task's result."""
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._count -= 1


def _on_loop(call: Callable[..., object]) -> Callable[..., None]:
    """``call`` for other threads: the running event loop calls it."""
    import asyncio  # takes 40 ms, which only who awaits pays

    loop = asyncio.get_running_loop()

    def post(*arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has been closed meanwhile
            loop.call_soon_threadsafe(call, *arguments)

    return post


def _closable(pieces: Iterator[R]) -> Generator[R, None, None]:
    """A generator over them: iterators need not have ``close``."""
    yield from pieces
