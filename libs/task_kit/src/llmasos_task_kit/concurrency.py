"""Concurrent calls of a task, which the model's engine loop batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

import attrs

from llmasos_hookspecs import Rejected, RequestError
from llmasos_hookspecs.guarding.changes import take

T = TypeVar("T")
R = TypeVar("R")

#: Rows in progress at once: more than a scheduler runs at once, so that its queue is never empty.
DEFAULT_WORKERS: Final = 128


@attrs.frozen(kw_only=True)
class BatchProgress:
    """The progress of a batch.

    Attributes:
        done: rows finished in this run, errors among them.
        errors: rows refused.
        skipped: rows that an earlier run finished.
        total: rows of the whole batch; None where that is not known.
        seconds: since the run began.
    """

    done: int = 0
    errors: int = 0
    skipped: int = 0
    total: int | None = None
    seconds: float = 0.0

    @property
    def rows_per_second(self) -> float:
        """Throughput of this run; rows that were skipped do not count."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


@attrs.frozen
class Finished(Generic[T, R]):
    """One item with its result, or with the error that refused it."""

    item: T
    result: R | None = None
    error: RequestError | None = None


def finished_in_turn(call: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[list[Finished[T, R]]]:
    """Call ``call`` on every item, ``workers`` at a time, and yield what has finished since, in lists that are never empty.

    Items are consumed as threads become free, so that there may be any number. An item that is refused (``RequestError``) is a result like
    any other; a request that the scheduler rejects with ``retry_after`` is tried again then; any other error ends the run.

    Ctrl-C and errors are raised at once, after what has finished by then: calls in progress are not waited for. They end when the model
    that they use is closed, which its owner does next.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise RequestError(f"workers is {workers!r}, and it must be a whole number of at least 1.")
    source = iter(items)
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="llmasos-task")
    running: dict[Future[R], T] = {}
    over: SimpleQueue[Future[R]] = SimpleQueue()

    def next_finished() -> Iterator[list[Finished[T, R]]]:
        while True:
            # One item more than there are threads, so that none waits for this loop.
            while len(running) <= workers:
                try:
                    item = next(source)
                except StopIteration:
                    break
                future = pool.submit(_patiently, call, item)
                running[future] = item
                future.add_done_callback(over.put)
            if not running:
                return
            done = [take(over), *_rest(over)]
            fatal = [future for future in done if not isinstance(future.exception(), RequestError | None)]
            finished = [_finished(future, running.pop(future)) for future in done if future not in fatal]
            if finished:
                yield finished
            if fatal:
                fatal[0].result()

    try:
        yield from next_finished()
    except GeneratorExit:  # nobody reads on
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        # Ctrl-C, or an error: queued items are dropped, and those that run are left to end with their model. What is whole is not lost.
        pool.shutdown(wait=False, cancel_futures=True)
        whole = [future for future in _rest(over) if not future.cancelled() and isinstance(future.exception(), RequestError | None)]
        if whole:
            yield [_finished(future, running.pop(future)) for future in whole]
        raise
    pool.shutdown(wait=True)


def _rest(over: SimpleQueue[Future[R]]) -> list[Future[R]]:
    """What is in a queue now."""
    found = []
    while not over.empty():
        found.append(over.get())
    return found


def _patiently(call: Callable[[T], R], item: T) -> R:
    while True:
        try:
            return call(item)
        except Rejected as error:
            if error.retry_after is None:
                raise
            time.sleep(min(max(error.retry_after, 0.01), 5.0))


def _finished(future: Future[R], item: T) -> Finished[T, R]:
    try:
        return Finished(item, result=future.result())
    except RequestError as error:
        return Finished(item, error=error)
