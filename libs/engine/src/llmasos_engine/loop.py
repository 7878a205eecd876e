"""The engine loop of one model: a thread that accepts requests and runs steps while there are any."""

from __future__ import annotations

import time
from collections import abc
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_engine.admission import QueueCheck
from llmasos_engine.guarded_engine import GuardedEngine
from llmasos_engine.heap import trim_heap
from llmasos_engine.intake import Intake
from llmasos_engine.kv_slots import KVSlots
from llmasos_engine.ledger import KVLedger, kv_capacity
from llmasos_engine.requests import RequestChecks
from llmasos_engine.runner import Runner
from llmasos_engine.scheduler import Scheduler
from llmasos_engine.step_meter import StepMeter
from llmasos_engine.supervised import CLOSE_SECONDS, STEP_SECONDS, SupervisedLoop, Work
from llmasos_engine.ticket import Ticket
from llmasos_engine.usage import Usage
from llmasos_hookspecs import (
    Engine,
    EngineInfo,
    Generation,
    Media,
    QueueBounds,
    Request,
    RequestRecord,
    RequestStarted,
    SchedulingPolicy,
    Score,
    StepRecord,
    Tokenizer,
)
from llmasos_hookspecs.guarding.watchdog import Watch


class EngineLoop(SupervisedLoop[GuardedEngine]):
    """Runs one engine for any number of callers.

    An invalid request is refused by the call itself; a refusal by the scheduler and later failures are
    raised by the ticket. The loop owns the engine: ``close`` shuts it down.

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
        self.context_length: Final = min(self.info.context_length, context_length or self.info.context_length)
        watch = Watch()

        def guarded(engine: Engine) -> GuardedEngine:
            return GuardedEngine(engine, engine_label, watch)

        super().__init__(
            guarded(engine),
            model=model,
            watch=watch,
            label=engine_label,
            rebuild=None if rebuild is None else lambda: guarded(rebuild()),
            on_lost=on_lost,
            step_timeout=step_timeout,
            close_timeout=close_timeout,
            clock=clock,
        )
        cache = KVSlots(self._engine, kv_capacity(self.info, memory) if ledger is None else ledger, keep_prefixes=keep_prefixes)
        self._scheduler = Scheduler(policy, cache, clock=clock, max_sequences=max_sequences, step_tokens=step_tokens, label=policy_label)
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
        self._begin()

    def __repr__(self) -> str:
        return f"<EngineLoop {self.model}: {'closed' if self._inbox.closed else self._scheduler.policy.name}>"

    @property
    def _work(self) -> Work[GuardedEngine]:
        return self._runner

    def _between_calls(self) -> str:
        return repr(self._scheduler.policy)

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
