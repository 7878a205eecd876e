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
from llmasos.runtime.work import Work
from llmasos_hookspecs import (
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
R = TypeVar("R")


@attrs.frozen
class _Arrival:
    """What the loop's thread shall do, and the requests that wait for it."""

    action: Callable[[], object]
    requests: tuple[Request, ...]


class EngineLoop:
    """Runs one engine for any number of callers, on a daemon thread of its own.

    All methods are safe from any thread. What cannot be served as asked is refused by the call itself; what the scheduler refuses, and
    what fails later, is raised by the ticket. The loop owns the engine: ``close`` shuts it down.

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
        on_finished: Callable[[RequestRecord], None] | None = None,
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
            on_finished: told of each request that is over, on the loop's thread; must return quickly.
            clock: seconds that only go forward.
        """
        self.info: Final[EngineInfo] = engine.info
        self.model: Final = model
        self.context_length: Final = min(self.info.context_length, context_length or self.info.context_length)
        self._tokenizer = tokenizer
        self._constraints = ConstraintCompiler(tokenizer)
        self._engine = engine
        self._rebuild = rebuild
        self._clock = clock
        cache = KVCache(engine, kv_capacity(self.info, memory) if ledger is None else ledger, keep_prefixes=keep_prefixes)
        self._scheduler = Scheduler(policy, cache, clock=clock, max_sequences=max_sequences, step_tokens=step_tokens)
        self._checks = RequestChecks(self.info.vocab_size, self.context_length, cache.ledger)
        self._runner = Runner(engine, self._scheduler, clock=clock, on_finished=on_finished)
        self._inbox: deque[_Arrival] = deque()
        self._tickets: weakref.WeakSet[Ticket[Any]] = weakref.WeakSet()
        self._wake = threading.Condition(threading.Lock())
        self._closing = False
        self._closed: LLMasOSError | None = None
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
        self._send(lambda: self._runner.add(request, work), request)
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

        self._send(add, *requests)
        return [ticket for ticket, _ in pairs]

    def submit_score(self, request: Request, continuations: Many[Many[int]]) -> Ticket[list[Score]]:
        """Queue the scoring of ``continuations`` (token ids) after the request's prompt, which is computed once."""
        self._checks.continuations(request, continuations)
        ticket: Ticket[list[Score]] = self._ticket(request)
        work = ScoreWork(continuations, ticket)
        self._send(lambda: self._runner.add(request, work), request)
        return ticket

    def submit_logits(self, request: Request) -> Ticket[npt.NDArray[np.float32]]:
        """Queue the computing of the logits of every position of the prompt: float32 [tokens, vocab]."""
        self._checks.prompt(request)
        ticket: Ticket[npt.NDArray[np.float32]] = self._ticket(request)
        work: Work = LogitsWork(ticket)
        self._send(lambda: self._runner.add(request, work), request)
        return ticket

    # The loop itself

    def use_policy(self, policy: SchedulingPolicy, *, max_sequences: int | None = None, step_tokens: int | None = None) -> None:
        """Go on under another policy; nothing is lost. Returns when it is in force."""
        self._call(lambda: self._scheduler.use_policy(policy, max_sequences=max_sequences, step_tokens=step_tokens))

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
        """Fail what is on its way with ``ModelClosed``, end the thread and shut the engine down. Calling it again does nothing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

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
        self._send(lambda: self._runner.add_group(requests, works), *requests)
        return ticket

    def _ticket(self, request: Request) -> Ticket[Any]:
        ticket: Ticket[Any] = Ticket(request.id, lambda: self._cancel(request.id))
        self._tickets.add(ticket)
        return ticket

    def _cancel(self, request_id: str) -> None:
        with contextlib.suppress(LLMasOSError, SystemExit):  # of a closed loop: then it is over already
            self._send(lambda: self._runner.cancel(request_id))

    def _send(self, action: Callable[[], object], *requests: Request) -> None:
        """Have something done on the loop's thread, before its next step: most often, queue ``requests``."""
        with self._wake:
            if self._closed is not None or self._closing:
                error = self._closed or _closed_error(self.model)
                raise SystemExit if left_behind(error) else error
            self._inbox.append(_Arrival(action, requests))
            self._wake.notify()

    def _call(self, action: Callable[[], object]) -> None:
        """Do something on the loop's thread and wait until it is done."""
        if threading.current_thread() is self._thread:
            action()
            return
        ticket: Ticket[None] = Ticket("call", lambda: None)
        self._tickets.add(ticket)

        def act() -> None:
            action()
            ticket.finish(None)

        self._send(act)
        ticket.result()

    # On the loop's thread

    def _run(self) -> None:
        while not self._closing and self._closed is None:
            try:
                self._take_in()
                busy = self._runner.step()
            except Exception as error:
                self._recover(error)
            else:
                if busy:
                    self._trimmed = False
                else:
                    self._sleep()
        self._end()

    def _take_in(self) -> None:
        while True:
            with self._wake:
                if not self._inbox:
                    return
                arrival = self._inbox.popleft()
            arrival.action()

    def _sleep(self) -> None:
        with self._wake:
            if self._inbox or self._closing or self._wake.wait(None if self._trimmed else IDLE_SECONDS):
                return
        self._trimmed = True
        trim_heap()

    def _recover(self, error: Exception) -> None:
        """The engine is lost, or a fault of core's own has left doubt about it: go on with a new one, or not at all."""
        if not isinstance(error, EngineFailed):
            _log.error("The loop of %s failed.", self.model, exc_info=error)
        self._shutdown()
        failure = EngineFailed(f"The engine of {self.model} failed, and what it was computing is lost: {error}")
        failure.__cause__ = error
        engine: Engine | None = None
        if self._rebuild is not None:
            try:
                engine = self._rebuild()
            except Exception as second:
                failure = EngineFailed(f"The engine of {self.model} failed ({error}) and could not be rebuilt ({second}); load it again.")
                failure.__cause__ = second
        if engine is None:
            self._closed = failure
        else:
            self._engine = engine
        self._runner.replace_engine(engine, failure)

    def _end(self) -> None:
        reason = self._closed or _closed_error(self.model)
        with self._wake:
            self._closed = reason
        self._take_in()  # requests that came too late still get their answer
        self._runner.fail_all(reason)
        self._shutdown()

    def _shutdown(self) -> None:
        try:
            self._engine.shutdown()
        except Exception:
            _log.warning("The engine of %s failed to shut down.", self.model, exc_info=True)

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
