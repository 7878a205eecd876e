"""The engine loop of one model: a thread that accepts requests and runs steps while there are any."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import abc, deque
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.engine.beam_search import BeamSearch
from llmasos.engine.constraint import ConstraintCompiler
from llmasos.engine.exiting import begin_exit, left_behind
from llmasos.engine.generation import GenerationWork
from llmasos.engine.guarded_engine import GuardedEngine
from llmasos.engine.heap import trim_heap
from llmasos.engine.kv_slots import KVSlots
from llmasos.engine.ledger import KVLedger, kv_capacity
from llmasos.engine.requests import RequestChecks
from llmasos.engine.runner import Runner
from llmasos.engine.scheduler import Scheduler
from llmasos.engine.scoring import LogitsWork, ScoreWork
from llmasos.engine.sequence import Sequence
from llmasos.engine.ticket import Ticket
from llmasos.engine.usage import Usage
from llmasos.engine.watchdog import TICK, Watch, watchdog
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
from llmasos_hookspecs.edge import in_words

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


@attrs.frozen
class _Message:
    """An action for the loop's thread, the requests that it queues, and the tickets that fail where the action raises."""

    action: Callable[[], object]
    requests: tuple[Request, ...]
    tickets: tuple[Ticket[Any], ...]


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
        step_timeout: float = STEP_SECONDS,
        close_timeout: float = CLOSE_SECONDS,
        engine_label: str = "engine",
        policy_label: str = "",
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
            step_timeout: seconds after which a step that has not ended makes the model lost.
            close_timeout: seconds that ``close`` waits for a plugin call to return.
            engine_label, policy_label: name the plugins in messages.
            clock: monotonic seconds.
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
        cache = KVSlots(self._engine, kv_capacity(self.info, memory) if ledger is None else ledger, keep_prefixes=keep_prefixes)
        self._scheduler = Scheduler(policy, cache, clock=clock, max_sequences=max_sequences, step_tokens=step_tokens, label=policy_label)
        self._checks = RequestChecks(self.info.vocab_size, self.context_length, cache.ledger)
        self._runner = Runner(self._engine, self._scheduler, clock=clock, on_finished=on_finished)
        self._inbox: deque[_Message] = deque()
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
            RequestError: an empty prompt, a token outside the vocabulary, an invalid constraint.
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
        """Queue ``n`` continuations of one prompt, which is computed once and forked.

        The first has the request's id and seed; the others have the ids ``ID/1``, ``ID/2`` ... and the seeds after its seed.
        """
        if request.sampling.num_beams > 1:
            raise RequestError("Beam search gives one text; ask for either n continuations or num_beams.")
        requests = [request, *(_sibling(request, index) for index in range(1, n))]
        pairs = [self._generation(each) for each in requests]

        def add() -> None:
            leader: Sequence | None = None
            for each, (_, work) in zip(requests, pairs, strict=True):
                sequence = self._runner.add(each, work, leader)
                leader = leader or sequence

        tickets = [ticket for ticket, _ in pairs]
        self._send(add, requests, tickets)
        return tickets

    def submit_score(self, request: Request, continuations: abc.Sequence[abc.Sequence[int]]) -> Ticket[list[Score]]:
        """Queue the scoring of ``continuations`` (token ids) after the request's prompt, which is computed once."""
        self._checks.continuations(request, continuations)
        ticket: Ticket[list[Score]] = self._ticket(request)
        work = ScoreWork(continuations, ticket)
        self._send(lambda: self._runner.add(request, work), [request], [ticket])
        return ticket

    def submit_logits(self, request: Request) -> Ticket[npt.NDArray[np.float32]]:
        """Queue the computation of the logits at every position of the prompt: float32 [tokens, vocab]."""
        self._checks.prompt(request)
        ticket: Ticket[npt.NDArray[np.float32]] = self._ticket(request)
        work = LogitsWork(ticket)
        self._send(lambda: self._runner.add(request, work), [request], [ticket])
        return ticket

    # The loop itself

    def use_policy(
        self, policy: SchedulingPolicy, *, max_sequences: int | None = None, step_tokens: int | None = None, label: str = ""
    ) -> None:
        """Switch to another policy; queued and running requests are kept. Returns when the policy is active."""
        self._call(lambda: self._scheduler.use_policy(policy, max_sequences=max_sequences, step_tokens=step_tokens, label=label))

    def forget_prefixes(self) -> None:
        """Empty the prefix cache, and return freed heap memory to the system. Returns when it is done."""

        def forget() -> None:
            while self._scheduler.cache.evict():
                pass
            trim_heap()

        self._call(forget)

    def usage(self) -> Usage:
        """The state of the queue and the KV cache now."""
        with self._wake:
            arriving = [request for message in self._inbox for request in message.requests]
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

    def describe(self) -> list[dict[str, Any]]:
        """The other processes that serve the model: none."""
        return []

    def close(self) -> None:
        """Fail unfinished requests with ``ModelClosed``, end the thread and shut the engine down. Calling it again does nothing.

        Where a plugin call does not return, its thread is abandoned with the memory it holds: it is a daemon, and ends with the process.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread and not self._given_up:
            self._thread.join(self._close_timeout)
            if self._thread.is_alive():
                _log.error("The model %s was closed while %s did not return; its memory is not free.", self.model, self._current_plugin())
                self._give_up(_closed_error(self.model))
        watchdog().forget(self)

    # Called by the watchdog

    def look(self, now: float) -> bool:
        """Called by the watchdog: while the loop's thread is inside a plugin, end requests at their deadlines; past ``step_timeout``,
        give the model up. Returns whether to be called again."""
        since = self._watch.since
        if since is None or self._given_up:
            return False
        if now - since > TICK:
            self._expire()
        if now - since > self._step_timeout:
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
        for ticket in self._pending():
            if ticket.deadline is not None and ticket.deadline <= now:
                ticket.fail(Cancelled(f"Request {ticket.id} passed its deadline while {self._current_plugin()} was computing."))

    def _give_up(self, error: LLMasOSError) -> None:
        """Fail every ticket with ``error``, from any thread; the loop's own thread ends when its plugin call returns."""
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

    def _current_plugin(self) -> str:
        """The plugin that the loop's thread is calling, for messages."""
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
        requests = [request, *(_sibling(request, index) for index in range(1, width))]
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
        with contextlib.suppress(LLMasOSError, SystemExit):  # the loop is closed, and so the request has ended
            self._send(lambda: self._runner.cancel(request_id))

    def _send(self, action: Callable[[], object], requests: abc.Sequence[Request] = (), tickets: abc.Sequence[Ticket[Any]] = ()) -> None:
        """Run ``action`` on the loop's thread before its next step; in most cases it queues ``requests``."""
        with self._wake:
            if self._closed is not None or self._closing:
                error = self._closed or _closed_error(self.model)
                raise SystemExit if left_behind(error) else error
            self._inbox.append(_Message(action, tuple(requests), tuple(tickets)))
            self._wake.notify()

    def _call(self, action: Callable[[], object]) -> None:
        """Run ``action`` on the loop's thread and wait for it."""
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
        while True:
            with self._wake:
                if not self._inbox:
                    return
                message = self._inbox.popleft()
            try:
                message.action()
            except BaseException as error:
                for ticket in message.tickets:
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
        self._take_in()  # tickets of requests that arrived last get their error too
        self._runner.fail_all(reason)

    def _after_fork(self) -> None:
        """In a forked child: the loop's thread does not exist here, and a lock that it held is never released."""
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


def _sibling(request: Request, index: int) -> Request:
    seed = request.sampling.seed
    sampling = request.sampling if seed is None else attrs.evolve(request.sampling, seed=seed + index)
    return attrs.evolve(request, id=f"{request.id}/{index}", sampling=sampling)


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
