"""The loop of one model: a thread that takes requests in and steps until there are none."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Any, Final, Self, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.runtime.beam_search import BeamSearch
from llmasos.runtime.constraint import ConstraintCompiler
from llmasos.runtime.exiting import begin_exit, left_behind
from llmasos.runtime.generation import GenerationWork
from llmasos.runtime.guarded_engine import GuardedEngine
from llmasos.runtime.heap import trim_heap
from llmasos.runtime.kv_cache import KVCache
from llmasos.runtime.ledger import KVLedger, kv_capacity
from llmasos.runtime.requests import RequestChecks
from llmasos.runtime.runner import Runner
from llmasos.runtime.scheduler import Scheduler
from llmasos.runtime.scoring import LogitsWork, ScoreWork
from llmasos.runtime.sequence import Sequence
from llmasos.runtime.ticket import Ticket
from llmasos.runtime.usage import Usage
from llmasos.runtime.watchdog import TICK, Watch, watchdog
from llmasos.runtime.work import Work
from llmasos.system.edge import in_words
from llmasos_hookspecs import (
    Cancelled,
    Engine,
    EngineFailed,
    EngineInfo,
    Generation,
    LLMasOSError,
    ModelClosed,
    Request,
    RequestError,
    RequestRecord,
    SchedulingPolicy,
    Score,
    Tokenizer,
)

_log = logging.getLogger("llmasos.runtime")
#: Seconds without work after which a loop gives back the memory that its last work left free.
IDLE_SECONDS: Final = 1.0
#: Seconds that one round of the loop may take where nothing else is said: far more than any step that ends.
STEP_SECONDS: Final = 600.0
#: Seconds for which closing waits for a plugin to come back.
CLOSE_SECONDS: Final = 10.0
#: Engines lost one after the other, without a token computed in between, after which the next would be lost as well.
_REBUILDS: Final = 3
R = TypeVar("R")


@attrs.frozen
class _Arrival:
    """What the loop's thread shall do, the requests that wait for it, and whom to tell if it cannot be done."""

    action: Callable[[], object]
    requests: tuple[Request, ...]
    tickets: tuple[Ticket[Any], ...]


class EngineLoop:
    """Runs one engine for any number of callers, on a daemon thread of its own.

    All methods are safe from any thread. What cannot be served as asked is refused by the call itself; what the scheduler refuses, and
    what fails later, is raised by the ticket. The loop owns the engine: ``close`` shuts it down.

    The watchdog looks after the thread: while it does not come back out of a plugin, requests still end at their deadlines, and after
    ``step_timeout`` seconds the model is given up and all callers are told which plugin it was in.

    A prompt with ``max_new_tokens`` more than the context holds is refused, never cut: who may shorten a default that nobody asked for
    is the caller, who knows that it is one (``context_length`` says how far).
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
        step_timeout: float = STEP_SECONDS,
        close_timeout: float = CLOSE_SECONDS,
        engine_label: str = "engine",
        policy_label: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            engine: the loaded model; nothing else may call it from now on.
            policy: who runs first.
            tokenizer: the model's.
            model: its name, for messages and records.
            max_sequences: sequences that run at once, as far as the engine has slots.
            step_tokens: tokens that one step computes at most.
            context_length: tokens of a prompt and its answer at most; None: the engine's.
            memory: bytes for weights and KV together; None: what the engine's slots can hold.
            ledger: counts the KV cache's tokens; None: one of its own, within ``memory``.
            keep_prefixes: keep what finished sequences computed for prompts that begin alike.
            rebuild: makes a new engine after this one failed.
            on_lost: told when the loop ends without having been closed.
            on_finished: told of each request that is over, on the loop's thread; must return quickly.
            step_timeout: seconds after which a step that has not ended makes the model lost.
            close_timeout: seconds that ``close`` waits for a plugin to come back.
            engine_label, policy_label: name the plugins in messages.
            clock: seconds that only go forward.
        """
        self.info: Final[EngineInfo] = engine.info
        self.model: Final = model
        self.context_length: Final = min(self.info.context_length, context_length or self.info.context_length)
        self._tokenizer = tokenizer
        self._constraints = ConstraintCompiler(tokenizer)
        self._watch = Watch()
        self._engine_label = engine_label
        self._engine = GuardedEngine(engine, engine_label, self._watch)
        self._rebuild = rebuild
        self._on_lost = on_lost
        self._step_timeout = step_timeout
        self._close_timeout = close_timeout
        self._clock = clock
        cache = KVCache(self._engine, kv_capacity(self.info, memory) if ledger is None else ledger, keep_prefixes=keep_prefixes)
        self._scheduler = Scheduler(policy, cache, clock=clock, max_sequences=max_sequences, step_tokens=step_tokens, label=policy_label)
        self._checks = RequestChecks(self.info.vocab_size, self.context_length, cache.ledger)
        self._runner = Runner(self._engine, self._scheduler, clock=clock, on_finished=on_finished)
        self._inbox: deque[_Arrival] = deque()
        self._tickets: weakref.WeakSet[Ticket[Any]] = weakref.WeakSet()
        self._wake = threading.Condition(threading.Lock())
        self._closing = False
        self._closed: LLMasOSError | None = None
        self._given_up = False
        self._failures = self._moves = 0
        self._trimmed = False
        self._thread = threading.Thread(target=self._run, name=f"llmasos-{model}", daemon=True)
        _loops.add(self)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<EngineLoop {self.model}: {'closed' if self._closed else self._scheduler.policy.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Requests

    def submit(self, request: Request) -> Ticket[Generation]:
        """Queue a generation.

        Raises:
            RequestError: an empty prompt, a token outside the vocabulary, a constraint that is none.
            ContextLengthExceeded: prompt and new tokens are longer than the context.
            ResourceError: they can never fit into the KV cache.
            ModelClosed: after ``close``.
        """
        if request.sampling.num_beams > 1:
            return self._submit_beams(request)
        ticket, work = self._generation(request)
        self._send(lambda: self._runner.add(request, work), [request], [ticket])
        return ticket

    def submit_many(self, request: Request, n: int) -> list[Ticket[Generation]]:
        """Queue ``n`` continuations of one prompt, whose prefill they share by fork.

        The first is the request itself; the others have ids ``ID/1`` and so on, and seeds that count up from its seed.
        """
        if request.sampling.num_beams > 1:
            raise RequestError("Beam search gives one text; ask for either n continuations or num_beams.")
        requests = [request, *(_sibling(request, place) for place in range(1, n))]
        pairs = [self._generation(each) for each in requests]

        def add() -> None:
            leader: Sequence | None = None
            for each, (_, work) in zip(requests, pairs, strict=True):
                sequence = self._runner.add(each, work, leader)
                leader = leader or sequence

        tickets = [ticket for ticket, _ in pairs]
        self._send(add, requests, tickets)
        return tickets

    def submit_score(self, request: Request, continuations: Many[Many[int]]) -> Ticket[list[Score]]:
        """Queue the scoring of ``continuations`` (token ids) after the request's prompt, which is computed once."""
        self._checks.continuations(request, continuations)
        ticket: Ticket[list[Score]] = self._ticket(request)
        work = ScoreWork(continuations, ticket)
        self._send(lambda: self._runner.add(request, work), [request], [ticket])
        return ticket

    def submit_logits(self, request: Request) -> Ticket[npt.NDArray[np.float32]]:
        """Queue the computing of the logits of every position of the prompt: float32 [tokens, vocab]."""
        self._checks.prompt(request)
        ticket: Ticket[npt.NDArray[np.float32]] = self._ticket(request)
        work: Work = LogitsWork(ticket)
        self._send(lambda: self._runner.add(request, work), [request], [ticket])
        return ticket

    # The loop itself

    def use_policy(
        self, policy: SchedulingPolicy, *, max_sequences: int | None = None, step_tokens: int | None = None, label: str = ""
    ) -> None:
        """Go on under another policy; nothing is lost. Returns when it is in force."""
        self._call(lambda: self._scheduler.use_policy(policy, max_sequences=max_sequences, step_tokens=step_tokens, label=label))

    def forget_prefixes(self) -> None:
        """Give back all KV that is kept for its prefix only, and memory that is free. Returns when it is done."""

        def forget() -> None:
            while self._scheduler.cache.evict():
                pass
            trim_heap()

        self._call(forget)

    def usage(self) -> Usage:
        """The queue and the KV cache just now."""
        with self._wake:
            arriving = [request for arrival in self._inbox for request in arrival.requests]
        stats, cache = self._scheduler.stats(), self._scheduler.cache
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
        )

    def close(self) -> None:
        """Fail what is on its way with ``ModelClosed``, end the thread and shut the engine down. Calling it again does nothing.

        A plugin that does not come back is left behind, with the memory it holds: its thread is a daemon, and ends with the process.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread and not self._given_up:
            self._thread.join(self._close_timeout)
            if self._thread.is_alive():
                _log.error("The model %s was closed while %s did not come back; its memory is not free.", self.model, self._culprit())
                self._give_up(_closed_error(self.model))
        watchdog().forget(self)

    # The watchdog's

    def look(self, now: float) -> bool:
        """Called by the watchdog: end requests at their deadlines while the loop's thread is away, and give it up at last."""
        since = self._watch.since
        if since is None or self._given_up:
            return False
        if now - since > TICK:
            self._expire()
        if now - since > self._step_timeout:
            error = EngineFailed(
                f"The model {self.model} is lost: {self._culprit()} did not come back in {self._step_timeout:g} seconds "
                "(resources.step_timeout); it is loaded again when it is next used."
            )
            _log.error("%s", error)
            self._give_up(error)
            self._on_lost()
            return False
        return True

    def _expire(self) -> None:
        """The callers are told by their tickets; the loop takes their requests out when it comes back."""
        now = self._clock()
        for ticket in self._pending():
            if ticket.deadline is not None and ticket.deadline <= now:
                ticket.fail(Cancelled(f"Request {ticket.id} passed its deadline while {self._culprit()} was computing."))

    def _give_up(self, error: LLMasOSError) -> None:
        """Tell everybody that it is over, from any thread; the loop's own ends by itself, if it ever comes back."""
        with self._wake:
            if self._given_up:
                return
            self._given_up = True
            self._closed = self._closed or error
            self._inbox.clear()
        self._engine.lose(str(error))
        self._runner.abandon(error)
        for ticket in self._pending():
            ticket.fail(error)

    def _pending(self) -> list[Ticket[Any]]:
        with self._wake:
            return [ticket for ticket in self._tickets if not ticket.done]

    def _culprit(self) -> str:
        """The plugin that the loop's thread is in."""
        calling = self._watch.calling
        return repr(self._scheduler.policy) if calling is None else f"the {calling[0]} in {calling[1]}"

    # Between threads

    def _generation(self, request: Request) -> tuple[Ticket[Generation], GenerationWork]:
        self._checks.generation(request)
        constraint = request.sampling.constraint
        state = None if constraint is None else self._constraints.compile(constraint)
        ticket: Ticket[Generation] = self._ticket(request)
        features = self.info.features
        work = GenerationWork(
            request, self._tokenizer, ticket, state, exact_drafts="drafts" in features, engine_draws="sampling" in features
        )
        return ticket, work

    def _submit_beams(self, request: Request) -> Ticket[Generation]:
        width = request.sampling.num_beams
        self._checks.generation(request)
        self._checks.beams(request, min(self._scheduler.max_sequences, self.info.max_sequences))
        ticket: Ticket[Generation] = self._ticket(request)
        works = BeamSearch(request, self._tokenizer, ticket).works()
        requests = [request, *(_sibling(request, place) for place in range(1, width))]
        self._send(lambda: self._runner.add_group(requests, works), requests, [ticket])
        return ticket

    def _ticket(self, request: Request) -> Ticket[Any]:
        ticket: Ticket[Any] = Ticket(request.id, lambda: self._cancel(request.id), request.deadline)
        self._keep(ticket)
        return ticket

    def _keep(self, ticket: Ticket[Any]) -> None:
        with self._wake:
            self._tickets.add(ticket)

    def _cancel(self, request_id: str) -> None:
        with contextlib.suppress(LLMasOSError, SystemExit):  # of a closed loop: then it is over already
            self._send(lambda: self._runner.cancel(request_id))

    def _send(self, action: Callable[[], object], requests: Many[Request] = (), tickets: Many[Ticket[Any]] = ()) -> None:
        """Have something done on the loop's thread, before its next step: most often, queue ``requests``."""
        with self._wake:
            if self._closed is not None or self._closing:
                error = self._closed or _closed_error(self.model)
                raise SystemExit if left_behind(error) else error
            self._inbox.append(_Arrival(action, tuple(requests), tuple(tickets)))
            self._wake.notify()

    def _call(self, action: Callable[[], object]) -> None:
        """Do something on the loop's thread and wait until it is done."""
        if threading.current_thread() is self._thread:
            action()
            return
        ticket: Ticket[None] = Ticket("call", lambda: None)
        self._keep(ticket)

        def act() -> None:
            action()
            ticket.finish(None)

        self._send(act, tickets=[ticket])
        ticket.result()

    # On the loop's thread

    def _run(self) -> None:
        try:
            while not self._closing and self._closed is None:
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
        except BaseException as error:  # the last net: what mends faults has failed itself, and nobody may wait for it
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
        while True:
            with self._wake:
                if not self._inbox:
                    return
                arrival = self._inbox.popleft()
            try:
                arrival.action()
            except BaseException as error:
                for ticket in arrival.tickets:
                    ticket.fail(EngineFailed(f"The loop of {self.model} could not take request {ticket.id}: {in_words(error)}."))
                raise

    def _sleep(self) -> None:
        self._watch.since = None
        with self._wake:
            if self._inbox or self._closing or self._wake.wait(None if self._trimmed else IDLE_SECONDS):
                return
        self._trimmed = True
        trim_heap()

    def _recover(self, error: BaseException) -> None:
        """The engine is lost, or a fault of core's own has left doubt about it: go on with a new one, or not at all."""
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
                engine = GuardedEngine(self._rebuild(), self._engine_label, self._watch)
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
            self._closed = failure
        else:
            self._engine = engine
        self._runner.replace_engine(engine, failure)
        if engine is None:
            self._on_lost()

    def _end(self) -> None:
        if self._given_up:
            return
        reason = self._closed or _closed_error(self.model)
        with self._wake:
            self._closed = reason
        self._take_in()  # requests that came too late still get their answer
        self._runner.fail_all(reason)

    def _after_fork(self) -> None:
        """In a child process: the loop's thread is not here, and its locks may never be released."""
        error = ModelClosed(
            f"The model {self.model} was loaded before this process was forked, and its thread stayed in the parent; load it again here."
        )
        self._wake = threading.Condition(threading.Lock())
        self._closed = error
        self._inbox.clear()
        for ticket in list(self._tickets):
            ticket.after_fork(error)


def _closed_error(model: str) -> ModelClosed:
    return ModelClosed(f"The model {model} is closed; load it again to use it.")


def _sibling(request: Request, place: int) -> Request:
    seed = request.sampling.seed
    sampling = request.sampling if seed is None else attrs.evolve(request.sampling, seed=seed + place)
    return attrs.evolve(request, id=f"{request.id}/{place}", sampling=sampling)


_loops: weakref.WeakSet[EngineLoop] = weakref.WeakSet()


def _close_all() -> None:
    """At exit: a daemon thread inside native code while the interpreter is taken down can crash the process."""
    begin_exit()
    for loop in list(_loops):
        loop.close()


def _after_fork_in_child() -> None:
    for loop in list(_loops):
        loop._after_fork()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
