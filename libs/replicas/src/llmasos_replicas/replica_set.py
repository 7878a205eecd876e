"""The replicas of a model behind the interface of one engine loop: routing, and recovery when a replica dies."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import time
import weakref
from collections import abc
from collections.abc import Callable
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_engine.admission import refusal
from llmasos_engine.ledger import KVLedger
from llmasos_engine.records import tell
from llmasos_engine.requests import RequestChecks
from llmasos_engine.step_meter import NOBODY, Listeners
from llmasos_engine.supervised import STEP_SECONDS
from llmasos_engine.ticket import Ticket
from llmasos_engine.usage import Usage
from llmasos_engine.wakeups import Wakeups
from llmasos_hookspecs import (
    Cancelled,
    EngineFailed,
    Generation,
    LLMasOSError,
    Media,
    ModelClosed,
    PlacedMedia,
    Placement,
    PluginError,
    QueueBounds,
    Request,
    RequestRecord,
    Score,
    StepRecord,
)
from llmasos_hookspecs.guarding.edge import crossing
from llmasos_hookspecs.guarding.watchdog import TICK, watchdog
from llmasos_options.component import ComponentConfig
from llmasos_plugin_calls.bounded import LOAD_SECONDS
from llmasos_replicas.fleet import Fleet
from llmasos_replicas.queues import waiting_at_least
from llmasos_replicas.replica import Job, Ready, Replica
from llmasos_replicas.replica_range import ReplicaRange
from llmasos_replicas.restarts import MOST_RESTARTS
from llmasos_replicas.routing import Backlogs, Router
from llmasos_replicas.scaling import Load, Scaling
from llmasos_replicas.spec import WorkerSpec, versions

_log = logging.getLogger("llmasos.replicas")

#: Times that a request moves to another replica because its replica died, before it is considered the cause.
_MOVES: Final = 2
#: Seconds of grace over the timeouts that a replica's own watchdog enforces.
_GRACE: Final = 5.0
#: Seconds to wait for a replica's usage figures.
_USAGE_TIMEOUT: Final = 2.0

_asked = itertools.count(1)


class ReplicaSet(Fleet):
    """Serves requests as an ``EngineLoop`` does, from several processes, which a placement starts.

    A replica that dies is started again, after a rest where it has died several times. Its requests that had not started move to other
    replicas; the others fail with ``EngineFailed``, because their KV cache is lost and part of their text may have been streamed. Where no
    other replica is ready when one has died several times, the model is lost.
    """

    def __init__(
        self,
        model: str,
        specs: abc.Sequence[WorkerSpec],
        placement: Placement,
        *,
        label: str = "placement",
        seed: int = 0,
        on_lost: Callable[[], None] = lambda: None,
        listeners: Listeners = NOBODY,
        elastic: ReplicaRange | None = None,
        bounds: QueueBounds | None = None,
        step_timeout: float = STEP_SECONDS,
        load_timeout: float = LOAD_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start one seat for each of ``specs``, or as many as ``elastic`` wants at least, and return when all are ready. Raises the error
        of a replica that could not load, or ``ResourceError`` where a seat fits nowhere.

        The set owns ``placement`` from now on, which ``label`` names in messages. ``on_lost`` is called when no replica is left.
        ``bounds`` are those of the queue of each replica, where its scheduler has the usual ones. A replica that sends nothing for
        ``step_timeout`` seconds while it has requests, or for ``load_timeout`` seconds before it is ready, is ended.
        """
        super().__init__(model, specs, placement, label, self._received, listeners=listeners, clock=clock)
        self.restarts = 0
        self._router = Router(seed)
        self._on_lost = on_lost
        self._bounds = bounds
        self._on_finished = listeners.finished
        self._step_timeout = step_timeout
        self._load_timeout = load_timeout
        self._wakeups: Final = Wakeups()
        self._unassigned: list[Job] = []
        self._usage: dict[int, Usage] = {}
        self._scheduler: ComponentConfig | None = None
        _sets.add(self)
        try:
            with self._changes.lock:
                for number in range(len(specs) if elastic is None else elastic.min):
                    self._start(number)
            self._changes.wait_for(lambda: self._closed is not None or all(each.ready for each in self._replicas.values()))
        except BaseException:  # Ctrl-C, or no more processes are to be had
            self.close()
            raise
        if self._closed is not None:
            self.close()
            raise self._closed
        self.ready: Final[Ready] = next(each.ready for each in self._replicas.values() if each.ready is not None)
        self.context_length: Final = self.ready.context_length
        if elastic is not None:
            self._scaling = Scaling(elastic, self.ready.info.max_sequences)
        self._checks = RequestChecks(self.ready.info, self.context_length, KVLedger(self.ready.kv_capacity))

    # Requests, as an engine's loop takes them

    @property
    def room(self) -> int:
        """Tokens of prompt and answer that the context and the KV cache of each replica hold at most."""
        return min(self.context_length, self.ready.kv_capacity)

    def check_queue(self, at_least: abc.Callable[[], int]) -> None:
        """Refuse what the queue of every replica is too full for, by what is known here: each checks again when a request comes."""
        bounds, refused = self._bounds, None
        if bounds is None:
            return
        slots = min(bounds.max_sequences, self.ready.info.max_sequences)
        with self._changes.lock:
            for number in self._backlogs:
                stats = waiting_at_least(self._replicas[number].jobs.values(), slots, bounds, self._clock())
                if (refused := refusal(bounds, stats, at_least)) is None:
                    return
        if refused is not None:
            raise refused

    def media_length(self, media: Media) -> int:
        """How many positions the media takes in a prompt, as the engine of a replica tells."""
        request = Request(
            id=f"{self.model}/media-{next(_asked)}",
            model=self.model,
            tokens=(),
            max_new_tokens=0,
            arrival=self._clock(),
            media=(PlacedMedia(media, 0, 1),),
        )
        length: int = self._send("media_length", request, None, 0)[0].result()
        return length

    def submit(self, request: Request) -> Ticket[Generation]:
        """Queue a generation on one of the replicas."""
        self._checks.generation(request)
        return self._send("generate", request, None, request.max_new_tokens)[0]

    def submit_many(self, request: Request, n: int) -> list[Ticket[Generation]]:
        """Queue ``n`` continuations of one prompt, all on one replica."""
        self._checks.generation(request)
        return self._send("many", request, n, request.max_new_tokens, [f"{request.id}/{index}" for index in range(1, n)])

    def submit_score(self, request: Request, continuations: abc.Sequence[abc.Sequence[int]]) -> Ticket[list[Score]]:
        """Queue the scoring of continuations."""
        self._checks.continuations(request, continuations)
        return self._send("score", request, continuations, max(map(len, continuations)))[0]

    def submit_logits(self, request: Request) -> Ticket[npt.NDArray[np.float32]]:
        """Queue the computation of the logits at every position of the prompt."""
        self._checks.prompt(request)
        return self._send("logits", request, None, 0)[0]

    def use_scheduler(self, scheduler: ComponentConfig, bounds: QueueBounds | None = None) -> None:
        """Switch to another scheduler, whose queues have ``bounds``, also for replicas that are started later."""
        with self._changes.lock:
            self._scheduler, self._bounds = scheduler, bounds
            for replica in self._replicas.values():
                replica.send("scheduler", scheduler)

    def forget_prefixes(self) -> None:
        """Empty the prefix caches."""
        with self._changes.lock:
            for replica in self._replicas.values():
                replica.send("forget")

    def usage(self) -> Usage:
        """The queue and KV cache figures of all replicas, summed."""
        with self._changes.lock:
            self._usage.clear()
            asked = [number for number, replica in self._replicas.items() if replica.ready is not None and replica.send("usage")]
        self._changes.wait_for(lambda: self._usage.keys() >= set(asked) & self._replicas.keys(), _USAGE_TIMEOUT)
        with self._changes.lock:
            found = list(self._usage.values())
            unassigned = len(self._unassigned)
            unheard = [replica.silence * TICK for number, replica in self._replicas.items() if number not in self._usage]
        total: dict[str, Any] = {
            field.name: sum(getattr(each, field.name) for each in found)
            for field in attrs.fields(Usage)
            if field.name not in ("model", "scheduler", "kv_bytes_per_token", "silent")
        }
        total["waiting"] += unassigned
        total["silent"] = max(0.0, *unheard, *(each.silent for each in found))
        scheduler = found[0].scheduler if found else ""
        return Usage(model=self.model, scheduler=scheduler, kv_bytes_per_token=self.ready.info.kv_bytes_per_token, **total)

    def describe(self) -> list[dict[str, Any]]:
        """Each replica's place, process, state and backlog."""
        with self._changes.lock:
            return [
                {
                    "replica": replica.number,
                    "where": replica.where,
                    "pid": None if replica.ready is None else replica.ready.pid,
                    "state": "loading" if replica.ready is None else "draining" if replica.draining else "ready",
                    "requests": len(replica.jobs),
                    "outstanding_tokens": replica.outstanding,
                }
                for replica in self._replicas.values()
            ]

    def close(self) -> None:
        """Fail unfinished requests with ``ModelClosed`` and end all processes. Calling it again does nothing."""
        with self._changes.lock:
            self._closed = self._closed or ModelClosed(f"The model {self.model} is closed; load it again to use it.")
            replicas, self._replicas, self._backlogs = list(self._replicas.values()), {}, Backlogs()
            jobs = self._unassigned + [job for replica in replicas for job in replica.jobs.values()]
            self._unassigned = []
            self._restarts.forget()
            self._changes.tell()
        for replica in replicas:
            replica.terminate()
        for replica in replicas:
            replica.close()
        with contextlib.suppress(LLMasOSError), crossing(self._label, "close"):
            self._placement.close()
        watchdog().forget(self)
        for job in jobs:
            self._fail(job, self._closed)

    # Sending

    def _send(self, kind: str, request: Request, extra: Any, new_tokens: int, siblings: abc.Sequence[str] = ()) -> list[Ticket[Any]]:
        tickets = {each: self._ticket(each) for each in (request.id, *siblings)}
        job = Job(kind, request, extra, len(request.tokens) + new_tokens * len(tickets), tickets)
        with self._changes.lock:
            if self._closed is not None:
                raise self._closed
            self._assign(job)
        watchdog().wake(self)
        return list(tickets.values())

    def _ticket(self, request_id: str) -> Ticket[Any]:
        return Ticket(request_id, lambda: self._cancel(request_id), wakeups=self._wakeups)

    # Called by the watchdog

    def look(self, now: float) -> bool:
        """Fail requests past their deadline that their replica did not end, and kill replicas that sent nothing for longer than a step may
        take. Returns whether to be called again."""
        lost: list[Job] = []
        with self._changes.lock:
            jobs = list(self._unassigned)
            for replica in self._replicas.values():
                jobs += replica.jobs.values()
                loading = replica.ready is None
                replica.silence = replica.silence + 1 if loading or replica.jobs else 0
                seconds, option = (self._load_timeout, "load_timeout") if loading else (self._step_timeout, "step_timeout")
                if replica.silence * TICK > seconds + _GRACE:
                    replica.silence = 0
                    replica.kill(f"did not answer for {seconds:g} seconds (resources.{option})")
                    if loading:  # another try would take as long
                        replica.failure = EngineFailed(f"Replica {replica.number} of {self.model} {replica.end} while it loaded.")
            self._tend(self._load)
            shrinks = self._scaling is not None and len(self._replicas) > self._scaling.bounds.min
            over = self._clock() - _GRACE
            for job in {id(job): job for job in jobs}.values():
                deadline = job.request.deadline
                if deadline is not None and deadline <= over:
                    lost.append(job)
        for job in lost:
            self._fail(job, Cancelled(f"Request {job.request.id} passed its deadline, and no replica of {self.model} ended it."))
        return bool(jobs) or shrinks or self._restarts.resting or any(replica.ready is None for replica in self._replicas.values())

    def _load(self, now: float) -> Load:
        """What the replicas have to do. With the lock held."""
        staying = self._staying()
        jobs = {id(job): job for replica in self._replicas.values() for job in replica.jobs.values()}
        waiting = [job for job in (*jobs.values(), *self._unassigned) if not job.begun]
        return Load(
            replicas=len(staying) + len(self._growing),
            starting=len(self._growing) + sum(replica.ready is None for replica in staying),
            waiting=len(waiting),
            unfinished=len(jobs) + len(self._unassigned),
            longest=max((now - job.request.arrival for job in waiting), default=0.0),
        )

    def _assign(self, job: Job) -> None:
        """Send the job to a replica, or keep it until one is ready. With the lock held."""
        while len(self._backlogs):
            number = self._router.choose(job.request, self._backlogs)
            replica = self._replicas[number]
            need = min(job.tokens, replica.ready.context_length if replica.ready else job.tokens) * max(1, job.request.sampling.num_beams)
            if replica.send("submit", job.kind, job.request, job.extra, need):
                replica.jobs.update(dict.fromkeys(job.tickets, job))
                job.left = len(job.tickets)
                self._backlogs.change(number, job.tokens)
                return
            self._backlogs.remove(number)  # it has died, and its thread is about to report that
        self._unassigned.append(job)

    def _cancel(self, request_id: str) -> None:
        with self._changes.lock:
            for replica in self._replicas.values():
                if request_id in replica.jobs:
                    replica.send("cancel", request_id)
                    return
            for job in self._unassigned:
                if request_id in job.tickets:
                    self._unassigned.remove(job)
                    self._fail(job, Cancelled(f"Request {request_id} was cancelled while no replica of {self.model} was ready."))
                    return

    # Messages of replicas, on their threads

    def _received(self, replica: Replica, verb: str, arguments: tuple[Any, ...]) -> None:
        if verb == "answers":
            with self._wakeups:
                for answer in arguments[0]:
                    self._answer(replica, *answer)
        elif verb == "told":
            self._tell(replica, *arguments)
        elif verb == "died":
            self._on_death(replica)
        elif verb == "hello":
            self._on_hello(replica, arguments[0])
        else:
            with self._changes.lock:
                if verb == "started":
                    for request_id in arguments[0]:
                        if (job := replica.jobs.get(request_id)) is not None:
                            job.begun = True
                elif verb == "usage":
                    self._usage[replica.number] = arguments[0]
                elif verb == "failed":
                    replica.failure = arguments[0]
                elif verb == "ready":
                    self._on_ready(replica, Ready(*arguments))
                self._changes.tell()

    def _tell(self, replica: Replica, event: str, record: Any) -> None:
        listener = attrs.asdict(self._listeners, recurse=False).get(event)
        if listener is not None:
            listener(attrs.evolve(record, replica=replica.number) if isinstance(record, StepRecord) else record)

    def _on_hello(self, replica: Replica, version: str) -> None:
        if version != versions():
            replica.failure = PluginError(
                f"The {self._label} runs {version} ({replica.where}), and this process {versions()}; install the same on every host."
            )
            replica.kill("was of another version")

    def _on_ready(self, replica: Replica, ready: Ready) -> None:
        other = next((each.ready.loader for each in self._replicas.values() if each.ready is not None), ready.loader)
        if ready.loader != other:
            replica.failure = PluginError(
                f"Replica {replica.number} of {self.model} ({replica.where}) loads with {ready.loader}, and the others with {other}; their "
                "answers could differ, so install the same on every host."
            )
            replica.kill("had another loader")
            return
        replica.ready = ready
        self._backlogs.add(replica.number)
        if self._scheduler is not None:
            replica.send("scheduler", self._scheduler)
        unassigned, self._unassigned = self._unassigned, []
        for job in unassigned:
            self._assign(job)

    def _answer(self, replica: Replica, verb: str, request_id: str, value: Any) -> None:
        ends = verb in ("done", "error")
        with self._changes.lock:
            job = replica.jobs.pop(request_id, None) if ends else replica.jobs.get(request_id)
            if job is None:
                return
            if self._scaling is not None and verb == "piece" and not job.told:
                job.told = True
                now = self._clock()
                self._scaling.first_token(now, now - job.request.arrival)
            job.begun = job.begun or verb != "prefill"  # which is told before anything is computed
            if ends:
                job.left -= 1
                if not job.left:
                    self._backlogs.change(replica.number, -job.tokens)
            if verb == "done":
                self._restarts.answered(replica.number)
        ticket = job.tickets[request_id]
        if verb == "piece":
            ticket.emit(*value)
        elif verb == "prefill":
            ticket.prefilled(value)
        elif verb == "done":
            ticket.finish(value)
        else:
            ticket.fail(value)

    def _on_death(self, replica: Replica) -> None:
        """A replica's process has ended: start it again, move its jobs that had not started, and fail the others."""
        lost: list[Job] = []
        with self._changes.lock:
            if self._replicas.get(replica.number) is not replica:
                return  # closed on purpose
            del self._replicas[replica.number]
            self._backlogs.remove(replica.number)
            self._router.forget(replica.number)
            moved: list[Job] = []
            for job in {id(job): job for job in replica.jobs.values()}.values():
                job.moves += 1
                (lost if job.begun or job.moves > _MOVES else moved).append(job)
            again = replica.draining and not replica.leaves  # nothing takes its place
            if replica.leaves:
                again = self._start_again(replica.number)
            elif not again:
                self.restarts += 1
                at_once = self._restarts.died(replica.number)
                again = replica.failure is None and at_once and self._start_again(replica.number)
            if not again and (not self._replicas or not any(each.ready for each in self._replicas.values())):
                self._closed = (
                    replica.failure
                    or self._refused
                    or EngineFailed(
                        f"Every replica of {self.model} died {MOST_RESTARTS + 1} times without an answer; the last one {replica.end}."
                    )
                )
                lost += [*moved, *self._unassigned]
                moved, self._unassigned = [], []
            elif not again:
                self._rest(replica.number)
            for job in moved:
                self._assign(job)
            self._changes.tell()
        error = self._closed or EngineFailed(
            f"Replica {replica.number} of {self.model} {replica.end} while it computed this request, whose state is lost; send it again."
        )
        for job in lost:
            self._fail(job, error)
        if self._closed is not None:
            self._on_lost()

    def _fail(self, job: Job, error: LLMasOSError) -> None:
        for ticket in job.tickets.values():
            if ticket.done:
                continue
            if self._on_finished is not None:
                request = job.request
                record = RequestRecord(
                    id=ticket.id,
                    model=request.model,
                    tenant=request.tenant,
                    queued=request.arrival,
                    finished=self._clock(),
                    prompt_tokens=len(request.tokens),
                    finish_reason="error",
                    error=str(error),
                )
                tell(self._on_finished, record)
            ticket.fail(error)


_sets: weakref.WeakSet[ReplicaSet] = weakref.WeakSet()


def _close_all() -> None:
    """At exit: a process that no longer runs Python code does not notice that its parent has ended."""
    for each in list(_sets):
        each.close()


atexit.register(_close_all)
