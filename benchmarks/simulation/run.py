"""Requests through the real scheduler, step by virtual step."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
from simulation.collector import CollectorTime
from simulation.engine import Costs, ModelledEngine
from simulation.traffic import Traffic

from llmasos_engine.kv_slots import KVSlots
from llmasos_engine.ledger import KVLedger
from llmasos_engine.scheduler import Planned, Scheduler
from llmasos_engine.sequence import Sequence
from llmasos_hookspecs import Rejected, SchedulingPolicy

#: Places of a sequence's ``work`` in this simulation: the row of the traffic that it came from.
Row = int


@attrs.frozen(kw_only=True)
class Server:
    """The limits of the modelled server."""

    max_sequences: int = 256
    step_tokens: int = 512
    kv_tokens: int = 200_000
    costs: Costs = attrs.field(factory=Costs)

    def capacity(self, prompt: float, output: float) -> float:
        """Requests a second that can be served, of so many prompt and output tokens on average: as many begin in a step as its tokens or
        the slots allow."""
        begun = min(self.step_tokens / (prompt + output), self.max_sequences / output)
        return begun / self.costs.seconds(round(begun * prompt), round(begun * output))


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of the traffic. Times are seconds of the virtual clock; NaN for requests that were refused.

    Attributes:
        first, finished: when each request's first and last token came.
        refused: requests that the policy did not admit.
        preemptions: slots taken away.
        computed: tokens that the engine computed, recomputation included.
        seconds: from the first arrival to the end.
        decisions: processor seconds that each plan took.
        busiest: most requests that waited at once.
    """

    first: npt.NDArray[np.float64]
    finished: npt.NDArray[np.float64]
    refused: int
    preemptions: int
    computed: int
    seconds: float
    decisions: npt.NDArray[np.float32]
    busiest: int


def policy(name: str, **options: Any) -> SchedulingPolicy:
    """A policy as its plugin makes it, without a bound on the queue."""
    (entry,) = entry_points(group="llmasos.schedulers", name=name)
    module = entry.load()
    made: SchedulingPolicy = module.llmasos_create_scheduler(module.llmasos_component().options(max_queue=0, **options), None)
    return made


def scheduler_for(name: str, server: Server, clock: Callable[[], float]) -> Scheduler:
    engine = ModelledEngine(max_sequences=server.max_sequences)
    cache = KVSlots(engine, KVLedger(server.kv_tokens), keep_prefixes=False)
    return Scheduler(policy(name), cache, clock=clock, max_sequences=server.max_sequences, step_tokens=server.step_tokens)


class _Run:
    """One run's clock, counters and columns."""

    def __init__(self, name: str, traffic: Traffic, server: Server) -> None:
        self.traffic = traffic
        self.server = server
        self.now = 0.0
        self.scheduler = scheduler_for(name, server, self.clock)
        self.first = np.full(len(traffic), np.nan)
        self.finished = np.full(len(traffic), np.nan)
        self.refused = self.preemptions = self.computed = self.busiest = 0

    def clock(self) -> float:
        return self.now

    def admit(self, number: int) -> None:
        request = self.traffic.request(number)
        try:
            self.scheduler.admit(request)
        except Rejected:
            self.refused += 1
            return
        self.scheduler.add(Sequence(request, number, self.clock))

    def step(self, planned: list[Planned]) -> None:
        """The modelled engine computes the rows; who has its logits gets a token."""
        scheduler = self.scheduler
        decode = sum(1 for part in planned if part.sequence.decoding)
        tokens = sum(len(part.row.tokens) for part in planned)
        seconds = self.server.costs.seconds(tokens - decode, decode)
        self.now += seconds
        self.computed += tokens
        scheduler.rates.add(tokens - decode, decode, seconds)
        scheduler.commit(planned)
        for part in planned:
            if part.row.want == "last":
                sequence: Sequence = part.sequence
                row: Row = sequence.work
                sequence.append(0)
                if sequence.generated == 1:
                    self.first[row] = self.now
                if sequence.generated >= self.traffic.outputs[row]:
                    self.finished[row] = self.now
                    self.preemptions += sequence.preemptions
                    scheduler.finish(sequence)
        scheduler.settle()


def run(name: str, traffic: Traffic, server: Server) -> Outcome:
    """Serve the traffic under the policy called ``name``."""
    state = _Run(name, traffic, server)
    decisions: list[float] = []
    coming = 0
    while True:
        while coming < len(traffic) and traffic.arrivals[coming] <= state.now:
            state.admit(coming)
            coming += 1
        state.busiest = max(state.busiest, len(state.scheduler.waiting))
        start = time.thread_time()
        planned = state.scheduler.plan()
        decisions.append(time.thread_time() - start)
        if planned:
            state.step(planned)
        elif coming < len(traffic):
            state.now = float(traffic.arrivals[coming])
        else:
            break
    assert not state.scheduler.running
    assert not len(state.scheduler.waiting)
    assert state.scheduler.cache.ledger.used == 0
    assert int(np.isnan(state.finished).sum()) == state.refused, "A request was lost."
    return Outcome(
        first=state.first,
        finished=state.finished,
        refused=state.refused,
        preemptions=state.preemptions,
        computed=state.computed,
        seconds=state.now,
        decisions=np.array(decisions, np.float32),
        busiest=state.busiest,
    )


def decisions(name: str, server: Server, *, waiting: int, tenants: int, steps: int) -> npt.NDArray[np.float64]:
    """Processor seconds of each of ``steps`` plans with every slot running and ``waiting`` requests kept waiting: float64 [steps, 2],
    of the decision itself, and of the garbage collector where one of its passes fell into it."""
    rng = np.random.default_rng(3)
    count = 2 * server.max_sequences + waiting + steps * server.max_sequences
    columns = Traffic(
        arrivals=np.sort(rng.uniform(0, 10, count)),
        tenants=rng.integers(0, tenants, count).astype(np.int32),
        prompts=rng.integers(4, 64, count).astype(np.int32),
        outputs=rng.integers(2, 60, count).astype(np.int32),
        limits=np.full(count, 64, np.int32),
        priorities=rng.integers(0, 3, count).astype(np.int8),
        deadlines=np.where(rng.random(count) < 0.3, rng.uniform(100, 1000, count), np.nan),
    )
    state = _Run(name, columns, server)
    coming = 0
    spent = []
    with CollectorTime() as collector:
        while len(spent) < steps:
            while len(state.scheduler.waiting) < waiting and coming < count:
                state.now = max(state.now, float(columns.arrivals[coming]))
                state.admit(coming)
                coming += 1
            collected, start = collector.seconds, time.thread_time()
            planned = state.scheduler.plan()
            seconds, collected = time.thread_time() - start, collector.seconds - collected
            if len(state.scheduler.running) == server.max_sequences:  # the first steps only fill the slots
                spent.append((seconds - collected, collected))
            state.step(planned)
    return np.array(spent)
