"""Random traffic through the whole runtime, under every scheduling policy that is installed and some that misbehave."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from llmasos_engine.generation import GenerationWork
from llmasos_engine.kv_slots import KVSlots
from llmasos_engine.ledger import KVLedger
from llmasos_engine.runner import Runner
from llmasos_engine.scheduler import Scheduler
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import (
    Admit,
    CapacityExceeded,
    EngineFailed,
    Generation,
    LLMasOSError,
    Request,
    RequestRecord,
    Row,
    SamplingParams,
)

pytestmark = pytest.mark.slow


class Lifo:
    """The newest first: the policy printed in the design."""

    def admit(self, request: Any, stats: Any) -> Any:
        return Admit()

    def rank(self, sequence: Any, now: float) -> Any:
        return (-sequence.request.arrival,)

    def victim(self, running: Any, needy: Any, now: float) -> Any:
        return None

    def quantum(self, sequence: Any, budget: int) -> int:
        return budget

    def on_commit(self, charges: Any) -> None:
        pass


class Thrasher(Lifo):
    """Preempts whenever it is asked, and ranks by a number drawn anew each time."""

    def __init__(self) -> None:
        self.random = random.Random(1)

    def rank(self, sequence: Any, now: float) -> Any:
        return self.random.random()

    def victim(self, running: Any, needy: Any, now: float) -> Any:
        return self.random.choice(running).request.id if running else None

    def quantum(self, sequence: Any, budget: int) -> int:
        return self.random.randint(-3, 2 * budget)


class Saboteur(Thrasher):
    """Raises, and returns what cannot be used, in every method."""

    def admit(self, request: Any, stats: Any) -> Any:
        return self.random.choice([Admit(), None, "yes", 1 / self.random.randint(0, 3) and Admit()])

    def rank(self, sequence: Any, now: float) -> Any:
        return self.random.choice([1, "one", None, float("nan"), (1, 2), [], object()])

    def victim(self, running: Any, needy: Any, now: float) -> Any:
        return self.random.choice([None, "nobody", needy.request.id, 7, *[sequence.request.id for sequence in running]])

    def quantum(self, sequence: Any, budget: int) -> Any:
        return self.random.choice([None, -1, 10**9, "all", 1])

    def on_commit(self, charges: Any) -> None:
        raise RuntimeError("no")


#: Found once: to look for them in all installed distributions takes longer than most situations.
ENTRIES = {entry.name: entry for entry in entry_points(group="llmasos.schedulers")}


def installed(name: str) -> Any:
    """A policy as its plugin makes it, with default options."""
    module = ENTRIES[name].load()
    return module.llmasos_create_scheduler(module.llmasos_component().options(), None)


POLICIES: dict[str, Any] = {
    **{name: (lambda name=name: installed(name)) for name in ENTRIES},
    "lifo": Lifo,
    "thrasher": Thrasher,
    "saboteur": Saboteur,
}


@attrs.frozen
class Arrival:
    """A request, the step at which it comes, and the one at which its caller gives up."""

    step: int
    prompt: tuple[int, ...]
    new: int
    tenant: str
    priority: int
    weight: float
    patience: float | None
    cancel: int | None
    seed: int | None


def arrival(drawn: bytes) -> Arrival:
    """The arrival that some bytes stand for: to draw each field by itself takes longer than most situations."""
    step, new, tenant, priority, weight, patience, cancel, seed, alike, *prompt = drawn
    return Arrival(
        step=step % 26,
        prompt=tuple(range(1 + alike % 40)) if alike >= 128 else tuple(token % 91 for token in prompt),  # many begin alike
        new=1 + new % 20,
        tenant="aabc"[tenant % 4],
        priority=priority % 4 - 1,
        weight=(0.5, 1.0, 3.0)[weight % 3],
        patience=(None, None, None, 0.5, 20.0)[patience % 5],
        cancel=cancel % 41 if cancel >= 171 else None,
        seed=seed % 6 if seed >= 192 else None,
    )


ARRIVALS = st.lists(st.binary(min_size=10, max_size=39).map(arrival), min_size=1, max_size=14)


@attrs.frozen
class Setup:
    """The limits of the runtime, and what goes wrong in it."""

    slots: int
    max_sequences: int
    step_tokens: int
    capacity: int
    keep_prefixes: bool
    can_fork: bool
    short: frozenset[int]
    broken: frozenset[int]
    lost: frozenset[int]
    memory: int | None


def steps(most: int, first: int = 0) -> st.SearchStrategy[frozenset[int]]:
    """Up to so many of the steps from the first to the sixtieth."""
    return st.binary(max_size=most).map(lambda drawn: frozenset(first + step % (61 - first) for step in drawn))


SETUPS = st.builds(
    Setup,
    slots=st.integers(1, 5),
    max_sequences=st.integers(1, 6),
    step_tokens=st.sampled_from([1, 3, 8, 64]),
    capacity=st.integers(60, 140),
    keep_prefixes=st.booleans(),
    can_fork=st.booleans(),
    short=steps(6),
    broken=steps(2),
    lost=steps(1, first=5),
    memory=st.sampled_from([None, None, 62]),
)


class Faults:
    """Makes the n-th step of an engine fail."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.step = -1

    def __call__(self, rows: Sequence[Row]) -> Exception | None:
        self.step += 1
        if self.step in self.setup.lost:
            return EngineFailed("the engine is lost")
        if self.step in self.setup.broken:
            return RuntimeError("a kernel failed")
        return CapacityExceeded("out of memory") if self.step in self.setup.short else None


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=min(500, 2 * settings.default.max_examples))  # 100 for each policy, with `make test-long` 500
@given(arrivals=ARRIVALS, setup=SETUPS)
def test_whatever_happens(name: str, arrivals: list[Arrival], setup: Setup, hash_engine: Any, tokenizer: Any) -> None:
    """KV is never over budget, no request is lost or answered twice, none waits for ever, every answer is what the request gets when it
    runs alone, and at the end no slot is taken."""
    faults = Faults(setup)
    features = frozenset({"batch", "kv_cache"} | ({"fork"} if setup.can_fork else set()))

    def engine() -> Any:
        return hash_engine(max_sequences=setup.slots, features=features, fault=faults, memory=setup.memory)

    engines = [engine()]
    reference = hash_engine()
    now = itertools.count()
    tick = [0.0]
    records: list[RequestRecord] = []
    cache = KVSlots(engines[0], KVLedger(setup.capacity), keep_prefixes=setup.keep_prefixes)
    scheduler = Scheduler(POLICIES[name](), cache, clock=lambda: tick[0], max_sequences=setup.max_sequences, step_tokens=setup.step_tokens)
    runner = Runner(engines[0], scheduler, clock=lambda: tick[0], on_finished=records.append)
    tickets: dict[str, Ticket[Generation]] = {}
    wanted: dict[str, Arrival] = {}
    coming = sorted(enumerate(arrivals), key=lambda pair: pair[1].step)
    last = max(arrival.step + (arrival.cancel or 0) for arrival in arrivals)
    for step in now:
        tick[0] = step * 0.1
        while coming and coming[0][1].step <= step:
            number, arrival = coming.pop(0)
            request = Request(
                id=f"r{number}",
                model="tiny",
                tokens=arrival.prompt,
                max_new_tokens=arrival.new,
                arrival=tick[0],
                tenant=arrival.tenant,
                priority=arrival.priority,
                weight=arrival.weight,
                deadline=None if arrival.patience is None else tick[0] + arrival.patience,
                sampling=SamplingParams() if arrival.seed is None else SamplingParams(temperature=1.0, seed=arrival.seed),
            )
            ticket: Ticket[Generation] = Ticket(request.id, lambda: None)
            tickets[request.id], wanted[request.id] = ticket, arrival
            runner.add(request, GenerationWork(request, tokenizer, ticket))
        for name_, arrival in wanted.items():
            if arrival.cancel is not None and arrival.step + arrival.cancel == step:
                runner.cancel(name_)
                assert tickets[name_].done
        try:
            busy = runner.step()
        except EngineFailed as error:
            engines.append(engine())
            runner.replace_engine(engines[-1], error)
            busy = True
        held = sum(map(len, engines[-1].slots.values()))
        assert held == cache.ledger.used <= setup.capacity
        assert len(scheduler.running) <= min(setup.max_sequences, setup.slots)
        assert len(engines[-1].slots) == len(scheduler.running) + len(cache.prefixes)
        assert cache.prefixes.tokens == held - sum(sequence.computed for sequence in scheduler.running)
        if not busy and not coming and step > last:
            break
        assert step < 4000, f"{len(tickets)} requests are not done after {step} steps: {scheduler.sequences()}"

    assert runner.idle
    assert not scheduler.running
    assert not len(scheduler.waiting)
    while cache.evict():
        pass
    assert engines[-1].slots == {}
    assert cache.ledger.used == 0
    assert sorted(record.id for record in records) == sorted(tickets)
    for record in records:
        check_answer(record, tickets[record.id], wanted[record.id], reference, tokenizer)


def check_answer(record: RequestRecord, ticket: Ticket[Generation], arrival: Arrival, reference: Any, tokenizer: Any) -> None:
    assert ticket.done
    if record.finish_reason in ("error", "rejected"):
        with pytest.raises(LLMasOSError):
            ticket.result()
        return
    if record.error is not None:  # past its deadline
        assert arrival.patience is not None
        return
    full = answer_alone(arrival, reference, tokenizer)
    generation = ticket.result()
    assert generation.finish_reason == record.finish_reason
    if generation.finish_reason == "cancelled":
        assert arrival.cancel is not None
        assert full.tokens[: len(generation.tokens)] == generation.tokens
    else:
        assert (generation.text, generation.tokens, generation.finish_reason) == (full.text, full.tokens, full.finish_reason)
    assert "".join(ticket) == generation.text


#: Answers that were worked out alone: situations of all policies ask for the same.
ALONE: dict[tuple[Any, ...], Generation] = {}


def answer_alone(arrival: Arrival, engine: Any, tokenizer: Any) -> Generation:
    """The answer of a runtime that has nothing else to do, and room."""
    if (key := (arrival.prompt, arrival.new, arrival.seed)) in ALONE:
        return ALONE[key]
    cache = KVSlots(engine, KVLedger(1000), keep_prefixes=False)
    runner = Runner(engine, Scheduler(Lifo(), cache, clock=lambda: 0.0), clock=lambda: 0.0)
    sampling = SamplingParams() if arrival.seed is None else SamplingParams(temperature=1.0, seed=arrival.seed)
    request = Request(id="alone", model="tiny", tokens=arrival.prompt, max_new_tokens=arrival.new, arrival=0.0, sampling=sampling)
    ticket: Ticket[Generation] = Ticket("alone", lambda: None)
    runner.add(request, GenerationWork(request, tokenizer, ticket))
    while runner.step():
        pass
    ALONE[key] = ticket.result()
    return ALONE[key]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_hears_the_end_of_every_request_once(name: str, hash_engine: Any, tokenizer: Any) -> None:
    """Served, cancelled while waiting or running, expired or failed: each admitted request has exactly one last charge."""
    policy = POLICIES[name]()
    ended: list[str] = []
    hear = policy.on_commit

    def on_commit(charges: Any) -> None:
        ended.extend(charge.id for charge in charges if charge.finished)
        hear(charges)

    policy.on_commit = on_commit
    engine = hash_engine(max_sequences=2)
    tick = [0.0]
    runner = Runner(
        engine, Scheduler(policy, KVSlots(engine, KVLedger(120)), clock=lambda: tick[0], max_sequences=2), clock=lambda: tick[0]
    )
    for number in range(8):
        request = Request(
            id=str(number), model="tiny", tokens=[number], max_new_tokens=5, arrival=0.0, deadline=0.5 if number == 5 else None
        )
        runner.add(request, GenerationWork(request, tokenizer, Ticket(str(number), lambda: None)))
    runner.step()
    runner.cancel("0")
    runner.cancel("7")
    tick[0] = 1.0
    while runner.step():
        pass
    assert sorted(ended) == [str(number) for number in range(8)]
