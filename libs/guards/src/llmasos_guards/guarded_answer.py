"""An answer on its way through guards, beside the engine's loop: a guard may take its time, and the loop may not."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from llmasos_engine.ticket import Piece, Ticket
from llmasos_engine.wakeups import Wake, Wakeups
from llmasos_guards.named_guard import Calls, NamedGuard, blocked
from llmasos_hookspecs import Block, EngineFailed, Generation, GuardRecord, GuardStream, LLMasOSError, ModelClosed, Passage
from llmasos_hookspecs.guarding.watchdog import watchdog
from llmasos_plugin_calls.workers import Workers

#: Seconds that a thread may be with one answer before another thread takes over those that wait behind it.
_PATIENCE: Final = 0.02
#: Pieces after which an answer goes on that nobody reads before its end: what guards block there ends early nevertheless.
_GATHERED: Final = 16


class Relay:
    """Has the answers of a pipeline go on, all that a step of an engine wrote on one thread.

    A thread for each answer would be woken, and would wait for the interpreter's lock, once for each token of each answer: at eight answers
    that cost more than the guards. Where a guard takes long, another thread goes on with the other answers.

    Attributes:
        wakeups: wakes who reads the answers, once for all that one thread did.
    """

    def __init__(self, workers: Workers) -> None:
        self.wakeups: Final = Wakeups()
        self._workers = workers
        self._ready: deque[Wake] = deque()
        self._lock = threading.Lock()
        self._since: dict[int, float] = {}  # by thread: when it took up its present answer
        _forked.add(self)

    def call_soon_threadsafe(self, _callback: object, wakes: Sequence[Wake]) -> None:
        """Call ``wakes`` soon on a thread: implements ``Reader``, so that what an engine posts in a step comes at once."""
        self._ready.extend(wakes)
        self.relieve(time.monotonic())

    def relieve(self, now: float) -> None:
        """Let a thread go on with the answers that wait, where there is none or each of them is long with one answer."""
        with self._lock:
            if not self._ready or any(now - since < _PATIENCE for since in self._since.values()):
                return
            self._since[-1] = now  # stands for the thread until it runs
        try:
            self._workers.do(self._go_on)
        except RuntimeError:  # the system has no thread; the watchdog's next look tries again
            with self._lock:
                self._since.pop(-1, None)

    def after_fork(self) -> None:
        """In a forked child, where the threads do not exist."""
        self._ready.clear()
        self._lock, self._since = threading.Lock(), {}

    def _go_on(self) -> None:
        thread = threading.get_ident()
        with self._lock:
            self._since.pop(-1, None)
            self._since[thread] = time.monotonic()
        while True:
            with self.wakeups:
                for _ in range(len(self._ready)):
                    with contextlib.suppress(IndexError):  # another thread took it
                        wake = self._ready.popleft()
                        self._since[thread] = time.monotonic()
                        wake()
            with self._lock:
                if not self._ready:
                    del self._since[thread]
                    return


class GuardedAnswer:
    """An answer that passes guards while it is written.

    Attributes:
        outer: the ticket of what passes. Cancelling it cancels the request.
    """

    def __init__(
        self,
        guards: Sequence[NamedGuard],
        inner: Ticket[Generation],
        passage: Passage,
        timeout: float,
        relay: Relay,
        fired: Callable[[GuardRecord], None] = lambda _: None,
    ) -> None:
        self.outer: Final[Ticket[Generation]] = Ticket(inner.id, inner.cancel, inner.deadline, relay.wakeups)
        self._inner = inner
        self._guards = guards
        self._passage = passage
        self._calls = Calls(timeout)
        self._relay = relay
        self._fired = fired
        self._passed: list[list[str]] = [[] for _ in range(len(guards) + 1)]  # what came to each guard, and what the last let pass
        self._streams: list[GuardStream] | None = None
        self._lock = threading.Lock()
        self._come: list[str] = []
        self._busy = False  # a thread is with it, or will be soon
        _forked.add(self)
        watchdog().wake(self)
        inner.listen(self._arrived)
        inner.add_done_callback(self._wake)

    def look(self, now: float) -> bool:
        """Called by the watchdog: fail the answer where a guard stalls."""
        if not self.outer.done and self._calls.left(now) <= 0:
            self.outer.fail(self._calls.stalled())
            self._inner.cancel()
        self._relay.wakeups.flush()  # of those that are done on a thread where this one stalls
        self._relay.relieve(now)
        return not self.outer.done

    def after_fork(self) -> None:
        """In a forked child, where no thread goes on with it."""
        self.outer.after_fork(ModelClosed("The request was sent before this process was forked, and its thread stayed in the parent."))

    def _arrived(self, piece: Piece) -> None:
        with self._lock:
            self._come.append(piece.text)
            enough = self.outer.followed or len(self._come) >= _GATHERED
        if enough:
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._busy:
                return
            self._busy = True
        self._inner.post(self._relay, self._go_on)

    def _go_on(self) -> None:
        """Pass on what has come."""
        while True:
            with self._lock:
                over = self._inner.done  # asked first: it has all its pieces by then
                come, self._come = self._come, []
                if self.outer.done or not (come or over):
                    self._busy = self.outer.done  # for ever: there is nothing left to do
                    return
            self._work("".join(come), over=over)

    def _work(self, text: str, *, over: bool) -> None:
        """Push what has come through the guards; ``over``: it is the last."""
        try:
            if self._streams is None:
                self._streams = [each.open(self._passage, self._calls) for each in self._guards]
            if text:
                self._pass(self._streams, text, final=False)
            if over:
                generation = self._inner.result()
                self._pass(self._streams, "", final=True)
                whole = ["".join(texts) for texts in self._passed]
                for guard, came, left in zip(self._guards, whole, whole[1:], strict=False):
                    if came != left:
                        self._fired(guard.fired(self._passage, "replaced"))
                self.outer.finish(_with_text(generation, whole[-1]))
        except LLMasOSError as error:
            self._fail(error)
        except Exception as error:
            self._fail(EngineFailed(f"The guards of request {self._inner.id} failed, and its answer is lost: {error!r}."))

    def _fail(self, error: LLMasOSError) -> None:
        self.outer.fail(error)
        self._inner.cancel()

    def _pass(self, streams: Sequence[GuardStream], text: str, *, final: bool) -> None:
        """Push ``text`` through the streams and release what comes out; ``final``: end them too. Raises ``Blocked``."""
        found_block: tuple[str, Block] | None = None
        for place, (each, stream) in enumerate(zip(self._guards, streams, strict=True)):
            self._passed[place].append(text)
            found = _pushed(stream, text, end=final or found_block is not None)
            if isinstance(found, Block):
                # What an earlier guard let pass before its own block is looked at by the later ones, and each of them may block it first.
                found_block, text = (each.label, found), found.text
                self._fired(each.fired(self._passage, "blocked"))
            else:
                text = found
        self._passed[-1].append(text)
        if text and not self.outer.done:  # else a guard stalled, and came back
            self.outer.emit(text)
        if found_block is not None:
            raise blocked(found_block[0], self._passage.stage, found_block[1], "".join(self._passed[-1]))


def _with_text(generation: Generation, text: str) -> Generation:
    """The generation with the text that passed. Its tokens are left out where they would tell another text."""
    return generation if text == generation.text else attrs.evolve(generation, text=text, tokens=(), logprobs=None)


def _pushed(stream: GuardStream, text: str, *, end: bool) -> str | Block:
    """What a stream releases for ``text`` and, with ``end``, at its end."""
    found = stream.push(text) if text else ""
    if isinstance(found, Block) or not end:
        return found
    last = stream.end()
    return attrs.evolve(last, text=found + last.text) if isinstance(last, Block) else found + last


_forked: weakref.WeakSet[Any] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for each in list(_forked):
        each.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
