"""The engine loop of one model: a thread that accepts requests and runs steps while there are any."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import abc
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar

import numpy as np
import numpy.typing as npt

from llmasos.engine.admission import QueueCheck
from llmasos.engine.exiting import begin_exit
from llmasos.engine.guarded_engine import GuardedEngine
from llmasos.engine.heap import trim_heap
from llmasos.engine.inbox import Inbox, closed_error
from llmasos.engine.intake import Intake
from llmasos.engine.kv_slots import KVSlots
from llmasos.engine.ledger import KVLedger, kv_capacity
from llmasos.engine.requests import RequestChecks
from llmasos.engine.runner import Runner
from llmasos.engine.scheduler import Scheduler
from llmasos.engine.step_meter import StepMeter
from llmasos.engine.ticket import Ticket
from llmasos.engine.usage import Usage
from llmasos_hookspecs import (
    Cancelled,
    Engine,
    EngineFailed,
    EngineInfo,
    Generation,
    LLMasOSError,
    Media,
    ModelClosed,
    QueueBounds,
    Request,
    RequestRecord,
    RequestStarted,
    SchedulingPolicy,
    Score,
    StepRecord,
    Tokenizer,
)
from llmasos_hookspecs.guarding.edge import in_words
from llmasos_hookspecs.guarding.watchdog import TICK, Watch, watchdog

_log = logging.getLogger("llmasos.engine")
#: Seconds without work after which a loop returns freed heap memory to the system.
IDLE_SECONDS: Final = 1.0
#: Default limit of one round of the loop in seconds: far longer than any step that ends.
STEP_SECONDS: Final = 600.0
#: Seconds that ``close`` waits for a plugin call to return.
CLOSE_SECONDS: Final = 10.0
#: Consecutive engine failures without a computed token in between after which the loop gives the engine up.
_REBUILDS: Final = 3
R = TypeVar("R")


class EngineLoop:
    """Runs one engine for any number of callers, on a daemon thread of its own.

    All methods are thread-safe. An invalid request is refused by the call itself; a refusal by the scheduler and later failures are
    raised by the ticket. The loop owns the engine: ``close`` shuts it down.

    A watchdog supervises the thread: while a plugin call does not return, requests still end at their deadlines, and after
    ``step_timeout`` seconds the model is lost and all callers get an error that names the plugin.

    The loop never truncates: it refuses a request whose prompt and ``max_new_tokens`` exceed the context. A caller that uses a default
    ``max_new_tokens`` shortens it to fit ``context_length`` before it submits.
    """

    def __init__(
        self,
        engine: Engine,
        policy: SchedulingPolicy,
        *,
        tokenizer: Tokenizer,
        model: str = "model",
        max_sequences: int = 8,
        step_tokens: int = 512,
        context_length: int | None = None,
        memory: int | None = None,
        ledger: KVLedger | None = None,
        keep_prefixes: bool = True,
        rebuild: Callable[[], Engine] | None = None,
        on_lost: Callable[[], None] = lambda: None,
        on_finished: Callable[[RequestRecord], None] | None = None,
        on_started: Callable[[RequestStarted], None] | None = None,
        on_step: Callable[[StepRecord], None] | None = None,
        step_timeout: float = STEP_SECONDS,
        close_timeout: float = CLOSE_SECONDS,
        engine_label: str = "engine",
        policy_label: str = "",
        bounds: QueueBounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            engine: the loaded model; from now on only the loop may call it.
            policy: ranks requests and chooses preemption victims.
            tokenizer: of the model.
            model: name of the model, for messages and records.
            max_sequences: sequences that run at once, at most the engine's slots.
            step_tokens: tokens that one step computes at most.
            context_length: tokens of prompt and answer together at most; None: the engine's.
            memory: bytes for weights and KV together; None: what the engine's slots can hold.
            ledger: counts the tokens of the KV cache; None: a new ledger, within ``memory``.
            keep_prefixes: keep finished sequences in the prefix cache, for prompts that begin with the same tokens.
            rebuild: makes a new engine after this one failed; None: a failed engine ends the loop.
            on_lost: called when the loop ends without ``close``.
            on_finished: called with the record of each request that has ended, on the loop's thread; must return quickly.
            on_started: the same for each request that was computed for the first time.
            on_step: the same for samples of the steps; None: nothing is measured for it.
            step_timeout: seconds after which a step that has not ended makes the model lost.
            close_timeout: seconds that ``close`` waits for a plugin call to return.
            engine_label, policy_label: name the plugins in messages.
            bounds: of the policy's queue, where it has the usual ones; ``check_queue`` then refuses before a prompt is encoded.
            clock: monotonic seconds.
        """
        self.info: Final[EngineInfo] = engine.info
        self.model: Final = model
        self.context_length: Final = min(self.info.context_length, context_length or self.info.context_length)
        self._watch = Watch()
        self._engine_label = engine_label
        self._engine = GuardedEngine(engine, engine_label, self._watch)
        self._rebuild = rebuild
        self._on_lost = on_lost
        self._step_timeout = step_timeout
        self._close_timeout = close_timeout
        self._clock = clock
        cache = KVSlots(self._engine, kv_capacity(self.info, memory) if ledger is None else ledger, keep_prefixes=keep_prefixes)
        self._scheduler = Scheduler(policy, cache, clock=clock, max_sequences=max_sequences, step_tokens=step_tokens, label=policy_label)
        self._inbox = Inbox(model)
        self._runner = Runner(
            self._engine,
            self._scheduler,
            clock=clock,
            on_finished=on_finished,
            on_started=on_started,
            meter=None if on_step is None else StepMeter(model, on_step),
            wakeups=self._inbox.wakeups,
        )
        checks = RequestChecks(self.info, self.context_length, cache.ledger)
        self._queue = QueueCheck(self._scheduler, self._inbox, clock, bounds)
        self._intake = Intake(self.info, tokenizer, checks, self._runner, self._inbox)
        self._given_up = self._rebuilding = False
        self._giving_up = threading.Lock()
        self._failures = self._moves = 0
        self._trimmed = False
        self._thread = threading.Thread(target=self._run, name=f"llmasos-{model}", daemon=True)
        _loops.add(self)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<EngineLoop {self.model}: {'closed' if self._inbox.closed else self._scheduler.policy.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Requests

    @property
    def room(self) -> int:
        """Tokens of prompt and answer that the context and the KV cache hold at most."""
        return min(self.context_length, self._scheduler.cache.ledger.capacity)

    def check_queue(self, at_least: Callable[[], int]) -> None:
        """Raise ``Rejected`` where the scheduler would refuse any request of so many tokens, because its queue is full."""
        self._queue.check(at_least)

    def media_length(self, media: Media) -> int:
        """How many positions the media takes in a prompt. Raises ``RequestError`` where the engine takes no such media."""
        return self._engine.media_length(media)

    def submit(self, request: Request) -> Ticket[Generation]:
        """Queue a generation.

        Raises:
            RequestError: an empty prompt, a token outside the vocabulary, an invalid constraint.
            ContextLengthExceeded: prompt and new tokens are longer than the context.
            ResourceError: they can never fit into the KV cache.
            ModelClosed: after ``close``.
        """
        return self._intake.submit(request, min(self._scheduler.max_sequences, self.info.max_sequences))

    def submit_many(self, request: Request, n: int) -> list[Ticket[Generation]]:
        """Queue ``n`` continuations of one prompt, which is computed once and forked.

        The first has the request's id and seed; the others have the ids ``ID/1``, ``ID/2`` ... and the seeds after its seed.
        """
        return self._intake.submit_many(request, n)

    def submit_score(self, request: Request, continuations: abc.Sequence[abc.Sequence[int]]) -> Ticket[list[Score]]:
        """Queue the scoring of ``continuations`` (token ids) after the request's prompt, which is computed once."""
        return self._intake.submit_score(request, continuations)

    def submit_logits(self, request: Request) -> Ticket[npt.NDArray[np.float32]]:
        """Queue the computation of the logits at every position of the prompt: float32 [tokens, vocab]."""
        return self._intake.submit_logits(request)

    # The loop itself

    def use_policy(
        self,
        policy: SchedulingPolicy,
        *,
        max_sequences: int | None = None,
        step_tokens: int | None = None,
        label: str = "",
        bounds: QueueBounds | None = None,
    ) -> None:
        """Switch to another policy; queued and running requests are kept. Returns when the policy is active."""
        self._call(lambda: self._scheduler.use_policy(policy, max_sequences=max_sequences, step_tokens=step_tokens, label=label))
        self._queue.bounds = bounds

    def forget_prefixes(self) -> None:
        """Empty the prefix cache, and return freed heap memory to the system. Returns when it is done."""

        def forget() -> None:
            while self._scheduler.cache.evict():
                pass
            trim_heap()

        self._call(forget)

    def usage(self) -> Usage:
        """The state of the queue and the KV cache now."""
        arriving = self._inbox.arriving()
        stats, cache, since = self._scheduler.stats(), self._scheduler.cache, self._watch.since
        return Usage(
            model=self.model,
            waiting=stats.waiting + len(arriving),
            running=stats.running,
            waiting_tokens=stats.waiting_tokens + sum(len(request.tokens) for request in arriving),
            running_tokens=stats.running_tokens,
            finished=self._runner.finished,
            kv_used=stats.kv_used,
            kv_cached=cache.prefixes.tokens,
            kv_capacity=stats.kv_capacity,
            kv_bytes_per_token=self.info.kv_bytes_per_token,
            cached_prefixes=len(cache.prefixes),
            cache_hits=cache.hits,
            prefill_rate=stats.prefill_rate,
            decode_rate=stats.decode_rate,
            scheduler=self._scheduler.policy.name,
            silent=0.0 if since is None else max(0.0, time.monotonic() - since),
        )

    def describe(self) -> list[dict[str, Any]]:
        """The other processes that serve the model: none."""
        return []

    def close(self) -> None:
        """Fail unfinished requests with ``ModelClosed``, end the thread and shut the engine down. Calling it again does nothing.

        Where a plugin call does not return, its thread is abandoned with the memory it holds: it is a daemon, and ends with the process.
        """
        self._inbox.ask_to_end()
        if threading.current_thread() is not self._thread and not self._given_up:
            self._thread.join(self._close_timeout)
            if self._thread.is_alive():
                _log.error("The model %s was closed while %s did not return; its memory is not free.", self.model, self._current_plugin())
                self._give_up(closed_error(self.model))
        watchdog().forget(self)

    # Called by the watchdog

    def look(self, now: float) -> bool:
        """Called by the watchdog: while the loop's thread is inside a plugin, end requests at their deadlines; past ``step_timeout``,
        give the model up. Returns whether to be called again."""
        since = self._watch.since
        if since is None or self._given_up:
            return False
        if now - since > TICK:
            self._inbox.wakeups.flush()  # of answers whose step hangs in a plugin before all of them are delivered
            self._expire()
        if now - since > self._step_timeout and not self._rebuilding:  # a load has a bound of its own
            error = EngineFailed(
                f"The model {self.model} is lost: {self._current_plugin()} did not return in {self._step_timeout:g} seconds "
                "(resources.step_timeout); it is loaded again when it is next used."
            )
            _log.error("%s", error)
            self._give_up(error)
            self._on_lost()
            return False
        return True

    def _expire(self) -> None:
        """Fail the tickets past their deadline; the loop removes their requests when the plugin call returns."""
        now = self._clock()
        for ticket in self._inbox.unfinished():
            if ticket.deadline is not None and ticket.deadline <= now:
                ticket.fail(Cancelled(f"Request {ticket.id} passed its deadline while {self._current_plugin()} was computing."))

    def _give_up(self, error: LLMasOSError) -> None:
        """Fail every ticket with ``error``, from any thread; the loop's own thread ends when its plugin call returns."""
        with self._giving_up:
            if self._given_up:
                return
            self._given_up = True
        self._inbox.end(error, discard=True)
        self._engine.lose(str(error))
        self._inbox.wakeups.flush()
        self._runner.abandon(error)
        for ticket in self._inbox.unfinished():
            ticket.fail(error)

    def _current_plugin(self) -> str:
        """The plugin that the loop's thread is calling, for messages."""
        calling = self._watch.calling
        return repr(self._scheduler.policy) if calling is None else f"the {calling[0]} in {calling[1]}"

    def _call(self, action: Callable[[], object]) -> None:
        """Run ``action`` on the loop's thread and wait for it."""
        if threading.current_thread() is self._thread:
            action()
            return
        ticket: Ticket[None] = Ticket("call", lambda: None)
        self._inbox.keep(ticket)

        def act() -> None:
            action()
            ticket.finish(None)

        self._inbox.send(act, tickets=[ticket])
        ticket.result()

    # On the loop's thread

    def _run(self) -> None:
        try:
            while not self._inbox.closing and self._inbox.closed is None:
                self._begin_round()
                try:
                    self._engine.check()
                    self._take_in()
                    busy = self._runner.step()
                except BaseException as error:
                    self._recover(error)
                else:
                    if busy:
                        self._trimmed = False
                    else:
                        self._sleep()
            self._end()
        except BaseException as error:  # the recovery itself failed: no caller may wait for ever
            _log.critical("The loop of %s ended by a fault of its own.", self.model, exc_info=error)
            self._give_up(EngineFailed(f"The loop of {self.model} failed, and what it was computing is lost: {in_words(error)}."))
            self._on_lost()
        finally:
            self._engine.shutdown()
            self._watch.since = None

    def _begin_round(self) -> None:
        idle, self._watch.since = self._watch.since is None, time.monotonic()
        if idle:
            watchdog().wake(self)

    def _take_in(self) -> None:
        while (message := self._inbox.next()) is not None:
            try:
                message.action()
            except BaseException as error:
                for ticket in message.tickets:
                    ticket.fail(EngineFailed(f"The loop of {self.model} could not take request {ticket.id}: {in_words(error)}."))
                raise

    def _sleep(self) -> None:
        self._watch.since = None
        if self._inbox.wait(None if self._trimmed else IDLE_SECONDS):
            return
        self._trimmed = True
        trim_heap()

    def _recover(self, error: BaseException) -> None:
        """The engine is lost, or its state is unknown after a fault of core: continue with a new engine, or end the loop."""
        if self._given_up:
            return
        if not isinstance(error, EngineFailed):
            _log.error("The loop of %s failed.", self.model, exc_info=error)
        self._engine.shutdown()
        told = str(error) if isinstance(error, LLMasOSError) else in_words(error)
        failure = EngineFailed(f"The engine of {self.model} failed, and what it was computing is lost: {told}")
        failure.__cause__ = error
        self._failures = self._failures + 1 if self._runner.moves == self._moves else 1
        self._moves = self._runner.moves
        engine: GuardedEngine | None = None
        if self._failures >= _REBUILDS:
            failure = EngineFailed(f"The engine of {self.model} failed {_REBUILDS} times before it computed anything: {told}")
            failure.__cause__ = error
        elif self._rebuild is not None:
            try:
                engine = GuardedEngine(self._load_again(self._rebuild), self._engine_label, self._watch)
            except BaseException as second:
                failure = EngineFailed(
                    f"The engine of {self.model} failed ({told}) and could not be rebuilt ({in_words(second)}); load it again."
                )
                failure.__cause__ = second
        if self._given_up:  # meanwhile
            if engine is not None:
                engine.shutdown()
            return
        if engine is None:
            self._inbox.end(failure)
        else:
            self._engine = engine
        self._runner.replace_engine(engine, failure)
        if engine is None:
            self._on_lost()

    def _load_again(self, load: Callable[[], Engine]) -> Engine:
        """A new engine; meanwhile requests end at their deadlines, and messages name the loader."""
        self._watch.calling, self._rebuilding = (self._engine_label, "llmasos_load"), True
        try:
            return load()
        finally:
            self._watch.since = time.monotonic()
            self._watch.calling, self._rebuilding = None, False

    def _end(self) -> None:
        if self._given_up:
            return
        reason = self._inbox.closed or closed_error(self.model)
        self._inbox.end(reason)
        self._take_in()  # tickets of requests that arrived last get their error too
        self._runner.fail_all(reason)

    def _after_fork(self) -> None:
        """In a forked child, where the loop's thread does not exist."""
        where = "before this process was forked, and its thread stayed in the parent"
        self._inbox.after_fork(ModelClosed(f"The model {self.model} was loaded {where}; load it again here."))


_loops: weakref.WeakSet[EngineLoop] = weakref.WeakSet()


def _close_all() -> None:
    """At exit: a daemon thread in native code can crash the process while the interpreter shuts down."""
    begin_exit()
    for loop in list(_loops):
        loop.close()


def _after_fork_in_child() -> None:
    for loop in list(_loops):
        loop._after_fork()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
