"""The process of a replica: serves one model to the process at the other end of its seat."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import attrs

from llmasos.compose.composition import Composer
from llmasos.compose.host import OpenedModel
from llmasos.compose.process import ProcessResources
from llmasos.compose.running_model import Policy, Running, RunningModel
from llmasos.compose.serving import LoopCall
from llmasos.system import discovery
from llmasos.system.context import SilentSink
from llmasos_config import ComponentConfig, Config, ModelConfig
from llmasos_config.aliases import Aliases
from llmasos_engine.heap import freeze_heap
from llmasos_engine.step_meter import Listeners
from llmasos_engine.ticket import Piece, Ticket
from llmasos_engine.wakeups import Wake
from llmasos_hookspecs import (
    Charge,
    CheckpointError,
    LLMasOSError,
    PromptProgress,
    Reject,
    Request,
    SchedulingPolicy,
    SequenceView,
    Stats,
    UnsupportedModel,
)
from llmasos_hookspecs.guarding.edge import as_ours
from llmasos_hookspecs.placement import Receive, Send
from llmasos_hookspecs.scheduling import Admit
from llmasos_model_store.store import Store
from llmasos_replicas.numbered import Arrivals, numbered
from llmasos_replicas.spec import versions
from llmasos_replicas.wire import WireError, pack, unpack
from llmasos_residency.memory import Account

_log = logging.getLogger("llmasos.replicas")

#: Seconds between two "alive" messages.
ALIVE_SECONDS: Final = 1.0
#: Least seconds between two messages of how much of a request's prompt is computed.
PREFILL_SECONDS: Final = 0.25
#: Exit status of a replica whose model is lost.
_LOST: Final = 3


class StartReporter:
    """A policy that reports which requests have started; the parent can move the others when this process dies."""

    def __init__(self, policy: SchedulingPolicy, report: Callable[[list[str]], None]) -> None:
        self.__name__ = type(policy).__name__  # in messages and usage
        self._policy = policy
        self._report = report
        self._begun: set[str] = set()

    def admit(self, request: Request, stats: Stats) -> Admit | Reject:
        return self._policy.admit(request, stats)

    def rank(self, sequence: SequenceView, now: float) -> Any:
        return self._policy.rank(sequence, now)

    def victim(self, running: Sequence[SequenceView], needy: SequenceView, now: float) -> str | None:
        return self._policy.victim(running, needy, now)

    def quantum(self, sequence: SequenceView, budget: int) -> int:
        return self._policy.quantum(sequence, budget)

    def on_commit(self, charges: Sequence[Charge]) -> None:
        fresh = [charge.id for charge in charges if charge.id not in self._begun]
        if fresh:
            self._begun.update(fresh)
            self._report(fresh)
        self._begun.difference_update(charge.id for charge in charges if charge.finished)
        self._policy.on_commit(charges)


class _ReportingComposer(Composer):
    report: Callable[[list[str]], None]
    digest: str

    def open(self, model: ModelConfig) -> OpenedModel:
        """As ``Composer.open``; but the checkpoint must be the parent's, to the byte."""
        opened = super().open(model)
        if self.digest and opened.checkpoint.digest != self.digest:
            raise CheckpointError(
                f"{opened.checkpoint.path} on {socket.gethostname()} is not the model that is served (its digest is "
                f"{opened.checkpoint.digest[:12]}, and {self.digest[:12]} was asked for); remove it there, or pull the same version on "
                "every host."
            )
        return opened

    def load(
        self,
        model: ModelConfig,
        opened: OpenedModel,
        scheduler: ComponentConfig,
        account: Account,
        on_lost: Callable[[], None],
        *,
        listeners: Listeners,
    ) -> Running:
        """As ``Composer.load``; but where the model is lost the process exits, and the parent starts another."""
        return super().load(model, opened, scheduler, account, _end_lost, listeners=listeners)

    def policy(self, config: ComponentConfig) -> Policy:
        made = super().policy(config)
        return attrs.evolve(made, policy=StartReporter(made.policy, self.report))


class Answers:
    """What the requests of one step came to, in one message to the parent, which wakes each of its event loops once for it."""

    def __init__(self, send: Callable[[Sequence[Any]], object]) -> None:
        """``send`` is called on one thread at a time."""
        self._send: Final = send
        self._sending: Final = threading.Lock()
        self._lock: Final = threading.Lock()
        self._kept: list[Any] = []

    def add(self, ticket: Ticket[Any], *message: Any) -> None:
        """Send a message about a ticket, together with what else the present step of the engine has."""
        with self._lock:
            self._kept.append(message)
            if len(self._kept) > 1:
                return  # the thread that added the first one sends it too
        ticket.post(self, self._flush)

    def call_soon_threadsafe(self, callback: Callable[[Sequence[Wake]], object], wakes: Sequence[Wake], /) -> None:
        """At once: no event loop is woken, but a message is sent."""
        callback(wakes)

    def _flush(self) -> None:
        with self._sending:
            with self._lock:
                kept, self._kept = self._kept, []
            if kept:  # else another thread has sent them
                self._send(kept)


class PrefillTeller:
    """Tells the parent how much of a request's prompt is computed: seldom, and when all of it is."""

    def __init__(self, ticket: Ticket[Any], answers: Answers, clock: Callable[[], float] = time.monotonic) -> None:
        self._ticket: Final = ticket
        self._answers: Final = answers
        self._clock: Final = clock
        self._next = -math.inf

    def __call__(self, progress: PromptProgress) -> None:
        now = self._clock()
        if now >= self._next or progress.processed == progress.total:
            self._next = now + PREFILL_SECONDS
            self._answers.add(self._ticket, "prefill", self._ticket.id, progress)


class Worker:
    """Serves one model to the process at the other end."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._sending = threading.Lock()
        self._sent = 0
        self._arrivals = Arrivals()
        self._inbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._answers = Answers(functools.partial(self._tell, "answers"))
        self._tickets: dict[str, Ticket[Any]] = {}

    def run(self) -> None:
        """Serve until the parent closes the connection or has ended."""
        try:
            self._tell("hello", versions())
            threading.Thread(target=self._read, name="llmasos-reader", daemon=True).start()
            threading.Thread(target=self._stay_in_touch, name="llmasos-alive", daemon=True).start()
            _, config, listened, elsewhere, digest = self._hear()
            try:
                self._open(_on_this_host(config, elsewhere), listened, digest)
            except BaseException as error:
                self._tell("failed", as_ours(error, "replica", "loading"))
                return
            while True:
                verb, *arguments = self._hear()
                getattr(self, f"_do_{verb}")(*arguments)
        except (EOFError, OSError):
            return

    def _open(self, config: Config, listened: Sequence[str], digest: str) -> None:
        """``listened``: the events of ``Listeners`` that the parent wants to hear of; ``digest``: as of ``WorkerSpec``."""
        self._composer = _ReportingComposer(
            config, registry=discovery.registry(), store=Store(), aliases=Aliases(), sink=SilentSink(), process=ProcessResources()
        )
        self._composer.digest = digest
        self._composer.report = functools.partial(self._tell, "started")
        (model,) = config.models.values()
        self._host = self._composer.host(model, Listeners(**{event: functools.partial(self._tell, "told", event) for event in listened}))
        with self._host.lease() as running:
            if not isinstance(running, RunningModel):
                raise UnsupportedModel(
                    f"The model {model.name} makes vectors or scores of texts, and such models run in the process that uses them; leave "
                    "out its replicas and its placement."
                )
            self._host.tracked.pinned = True
            freeze_heap()
            loop = running.loop
            self._tell("ready", running.info, running.need, running.loader, loop.context_length, loop.usage().kv_capacity, os.getpid())

    def _stay_in_touch(self) -> None:
        """Send "alive" messages. They stop where a thread holds the interpreter lock for ever, and the parent then kills the process."""
        while True:
            time.sleep(ALIVE_SECONDS)
            self._tell("alive", self._arrivals.count)

    def _do_submit(self, kind: str, request: Request, extra: Any, tokens: int) -> None:
        def send(loop: Any) -> list[Ticket[Any]]:
            if kind == "many":
                return list(loop.submit_many(request, extra))
            if kind == "score":
                return [loop.submit_score(request, extra)]
            if kind == "media_length":
                ticket: Ticket[int] = Ticket(request.id, lambda: None)
                ticket.finish(loop.media_length(request.media[0].media))
                return [ticket]
            return [loop.submit_logits(request) if kind == "logits" else loop.submit(request)]

        try:
            tickets = self._host.submit(lambda _: LoopCall(tokens, tokens, send))
        except BaseException as error:
            ours = as_ours(error, "replica", "taking a request")
            for index in range(extra if kind == "many" else 1):
                self._tell("answers", [("error", request.id if index == 0 else f"{request.id}/{index}", ours)])
            return
        for ticket in tickets:
            self._tickets[ticket.id] = ticket
            ticket.listen_to_prefill(PrefillTeller(ticket, self._answers))
            ticket.listen(functools.partial(self._piece, ticket))
            ticket.add_done_callback(functools.partial(self._done, ticket))

    def _do_cancel(self, request_id: str) -> None:
        if (ticket := self._tickets.get(request_id)) is not None:
            ticket.cancel()

    def _do_scheduler(self, scheduler: ComponentConfig) -> None:
        try:
            self._host.use_scheduler(scheduler, functools.partial(self._composer.policy, scheduler))
        except LLMasOSError as error:  # the parent made one of these too, so this is rare; the policy in use remains
            _log.error("%s", error)

    def _do_forget(self) -> None:
        self._host.trim()

    def _do_usage(self) -> None:
        with self._host.lease() as running:
            self._tell("usage", running.loop.usage())

    def _piece(self, ticket: Ticket[Any], piece: Piece) -> None:
        self._answers.add(ticket, "piece", ticket.id, (piece.text, piece.tokens, piece.logprobs))

    def _done(self, ticket: Ticket[Any]) -> None:
        self._tickets.pop(ticket.id, None)
        try:
            result = ticket.result()
        except BaseException as error:
            self._answers.add(ticket, "error", ticket.id, as_ours(error, "replica", "answering"))
        else:
            self._answers.add(ticket, "done", ticket.id, result)

    def _tell(self, *message: Any) -> None:
        data = pack(message)
        try:
            with self._sending:
                self._send(numbered(self._sent, data))
                self._sent += 1
        except OSError:  # the parent has closed the connection
            os._exit(0)

    def _read(self) -> None:
        """Queue what comes, on a thread of its own, so that the count of it does not wait for what is done with it."""
        with contextlib.suppress(EOFError, OSError, WireError):  # WireError: a message is missing, and nothing after it can be trusted
            while True:
                message = self._arrivals.take(self._receive())
                if message is not None:
                    self._inbox.put(message)
        self._inbox.put(None)

    def _hear(self) -> list[Any]:
        message = self._inbox.get()
        if message is None:
            raise EOFError
        return unpack(message)


def _on_this_host(config: Mapping[str, Any], elsewhere: Mapping[str, Any] | None) -> Config:
    """The config to serve: ``elsewhere`` where the files that ``config`` names are not on this host."""
    here = Config.from_mapping(config)
    (model,) = here.models.values()
    return here if elsewhere is None or Path(model.source).exists() else Config.from_mapping(elsewhere)


def _end_lost() -> None:
    os._exit(_LOST)


def serve(receive: Receive, send: Send) -> None:
    """What a seat runs; returns when the parent has ended or closed the connection."""
    Worker(receive, send).run()
