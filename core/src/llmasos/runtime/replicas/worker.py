"""A replica's own process: one model, asked through a socket that the parent left open."""

from __future__ import annotations

import functools
import gc
import os
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import attrs

from llmasos.runtime.composition import Composer
from llmasos.runtime.host import Call, Policy
from llmasos.runtime.process import ProcessResources
from llmasos.runtime.ticket import Ticket
from llmasos.system import discovery
from llmasos.system.aliases import Aliases
from llmasos.system.config import ComponentConfig, Config
from llmasos.system.context import SilentSink
from llmasos.system.store import Store
from llmasos_hookspecs import Charge, LLMasOSError, Reject, Request, SchedulingPolicy, SequenceView, Stats
from llmasos_hookspecs.scheduling import Admit


@attrs.frozen(kw_only=True)
class WorkerSpec:
    """What a replica serves: a config with one model, and the cores it may use (empty: any)."""

    config: Config
    cores: tuple[int, ...] = ()


class StartReporter:
    """A policy that tells which requests have begun, so that the others can be moved when this process dies."""

    def __init__(self, policy: SchedulingPolicy, report: Callable[[list[str]], None]) -> None:
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

    def policy(self, config: ComponentConfig) -> Policy:
        made = super().policy(config)
        return attrs.evolve(made, policy=StartReporter(made.policy, self.report))


class Worker:
    """Serves one model to the process at the other end of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket[Any]] = {}

    def run(self) -> None:
        """Until the parent closes the connection, or is gone."""
        try:
            spec: WorkerSpec = self._connection.recv()
            try:
                self._open(spec)
            except LLMasOSError as error:
                self._tell("failed", error)
                return
            while True:
                verb, *arguments = self._connection.recv()
                getattr(self, f"_do_{verb}")(*arguments)
        except (EOFError, OSError):
            return

    def _open(self, spec: WorkerSpec) -> None:
        if spec.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, spec.cores)
        self._composer = _ReportingComposer(
            spec.config, registry=discovery.registry(), store=Store(), aliases=Aliases(), sink=SilentSink(), process=ProcessResources()
        )
        self._composer.report = functools.partial(self._tell, "started")
        (model,) = spec.config.models.values()
        self._host = self._composer.host(model, functools.partial(self._tell, "record"))
        with self._host.lease() as running:
            self._host.place.pinned = True
            # What is there now stays: a full collection would walk it again and again, 30 to 60 ms in the middle of a step.
            gc.collect()
            gc.freeze()
            self._tell("ready", running.info, running.need, running.loader, running.loop.context_length, running.loop.usage().kv_capacity)

    def _do_submit(self, kind: str, request: Request, extra: Any, tokens: int) -> None:
        def send(loop: Any) -> list[Ticket[Any]]:
            if kind == "many":
                return list(loop.submit_many(request, extra))
            if kind == "score":
                return [loop.submit_score(request, extra)]
            return [loop.submit_logits(request) if kind == "logits" else loop.submit(request)]

        try:
            tickets = self._host.submit(lambda _: Call(tokens, send))
        except LLMasOSError as error:
            for place in range(extra if kind == "many" else 1):
                self._tell("error", request.id if place == 0 else f"{request.id}/{place}", error)
            return
        for ticket in tickets:
            self._tickets[ticket.id] = ticket
            ticket.listen(functools.partial(self._tell, "piece", ticket.id))
            ticket.add_done_callback(functools.partial(self._done, ticket))

    def _do_cancel(self, request_id: str) -> None:
        if (ticket := self._tickets.get(request_id)) is not None:
            ticket.cancel()

    def _do_scheduler(self, scheduler: ComponentConfig) -> None:
        self._host.use_scheduler(scheduler, functools.partial(self._composer.policy, scheduler))

    def _do_forget(self) -> None:
        self._host.trim()

    def _do_usage(self) -> None:
        with self._host.lease() as running:
            self._tell("usage", running.loop.usage())

    def _done(self, ticket: Ticket[Any]) -> None:
        self._tickets.pop(ticket.id, None)
        try:
            result = ticket.result()
        except LLMasOSError as error:
            self._tell("error", ticket.id, error)
        else:
            self._tell("done", ticket.id, result)

    def _tell(self, *message: Any) -> None:
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:  # nobody listens any more
            os._exit(0)


def main() -> None:
    """Serve at the file descriptor that the command line names."""
    Worker(Connection(int(sys.argv[1]))).run()
    os._exit(0)  # the parent is gone or wants it so: nobody waits for what is on its way
