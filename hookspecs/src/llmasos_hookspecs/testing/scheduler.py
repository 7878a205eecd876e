"""Conformance tests of scheduling policies."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

import attrs
import numpy as np
import pytest

from llmasos_hookspecs.scheduling import Admit, Charge, Reject, Request, SchedulingPolicy, SequenceView, Stats
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.simulation import SimulatedSequence, Simulation

_START: Final = 1000.0
#: Steps in which a workload must be served; installed policies need some 250, and one under which sequences lose their work again and
#: again needs no end of them.
_STEPS: Final = 2000


def request(name: str, *, prompt: int = 20, new: int = 10, arrival: float = _START, **fields: Any) -> Request:
    """A request of ``prompt`` tokens for ``new`` more."""
    return Request(id=name, model="tiny", tokens=tuple(range(prompt)), max_new_tokens=new, arrival=arrival, **fields)


def workload(seed: int, count: int = 40, seconds: float = 30.0, most: int = 120) -> list[Request]:
    """Random requests of several tenants, priorities, weights and lengths, some with a deadline far away."""
    rng = np.random.default_rng(seed)
    return [
        request(
            f"r{i}",
            prompt=int(rng.integers(1, most)),
            new=int(rng.integers(1, 24)),
            arrival=_START + float(rng.uniform(0, seconds)),
            tenant=f"tenant-{rng.integers(0, 3)}",
            priority=int(rng.integers(0, 3)),
            weight=float(rng.choice([0.5, 1.0, 4.0])),
            deadline=_START + 1e6 if rng.random() < 0.3 else None,
        )
        for i in range(count)
    ]


@attrs.frozen(kw_only=True)
class Rivalry:
    """An endless stream of requests (rivals) that a policy may prefer to the waiting ones, for the starvation tests.

    ``waiting`` and ``rival`` are fields of the two kinds of request; ``tenants`` is the number of tenants of the rivals (0: the tenant of
    the waiting requests); ``patience`` is the time in seconds from a rival's arrival to its deadline.
    """

    waiting: Mapping[str, Any] = attrs.field(factory=dict)
    rival: Mapping[str, Any] = attrs.field(factory=dict)
    tenants: int = 0
    patience: float | None = None

    def make_rival(self, name: str, number: int, arrival: float) -> Request:
        fields = dict(self.rival)
        if self.tenants:
            fields["tenant"] = f"loud-{number % self.tenants}"
        if self.patience is not None:
            fields["deadline"] = arrival + self.patience
        return request(f"{name}-{number}", arrival=arrival, **fields)


_RIVALRIES: Final[Mapping[str, Rivalry]] = {
    "newer": Rivalry(),
    "more urgent": Rivalry(rival={"priority": 1}),
    "shorter": Rivalry(waiting={"new": 60, "prompt": 200}),
    "longer": Rivalry(waiting={"new": 4, "prompt": 4}),
    "with a deadline": Rivalry(patience=60.0),
    "of other tenants": Rivalry(waiting={"tenant": "quiet"}, rival={"weight": 2.0}, tenants=6),
    "of one heavy tenant": Rivalry(waiting={"tenant": "quiet"}, rival={"weight": 4.0}, tenants=1),
}


class FirstCome:
    """First come, first served, without rejections: the policy that the tested one replaces in a running loop."""

    def admit(self, request: Request, stats: Stats) -> Admit:
        return Admit()

    def rank(self, sequence: SequenceView, now: float) -> tuple[float, str]:
        return (sequence.request.arrival, sequence.request.id)

    def victim(self, running: Sequence[SequenceView], needy: SequenceView, now: float) -> None:
        return None

    def quantum(self, sequence: SequenceView, budget: int) -> int:
        return budget

    def on_commit(self, charges: Sequence[Charge]) -> None:
        pass


class SchedulerConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, and pytest proves its policy::

        class TestConformance(SchedulerConformance):
            module = "llmasos_sched_mine"

    Attributes:
        patience: virtual seconds within which even the lowest-ranked request must be served while requests that the policy ranks better
            arrive faster than they can be served.
    """

    kind = "scheduler"
    patience: ClassVar[float] = 300.0

    def policy(self, sandbox: PluginSandbox, context: SandboxContext) -> SchedulingPolicy:
        """A fresh policy."""
        made: SchedulingPolicy = sandbox.call("llmasos_create_scheduler", options=self.plugin_options(sandbox), context=context)
        return made

    def simulation(self, sandbox: PluginSandbox, context: SandboxContext, **settings: Any) -> Simulation:
        """A virtual loop around a fresh policy, with as many slots as its options allow, at most 4."""
        slots = min(4, getattr(self.plugin_options(sandbox), "max_sequences", 4))
        return Simulation(self.policy(sandbox, context), slots=slots, **settings)

    def test_policy_is_whole(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """The hook gives an object with every method of ``SchedulingPolicy``, and a new one each time."""
        policy = self.policy(sandbox, context)
        assert isinstance(policy, SchedulingPolicy), "The policy lacks a method of SchedulingPolicy."
        assert self.policy(sandbox, context) is not policy, "Two queues were given the same policy object."

    def test_shared_options_are_sound(self, sandbox: PluginSandbox) -> None:
        """``max_sequences`` and ``step_tokens``, where the options have them, are whole numbers of at least 1."""
        options = self.plugin_options(sandbox)
        for name in ("max_sequences", "step_tokens"):
            value = getattr(options, name, 1)
            assert isinstance(value, int), f"Options.{name} is {value!r}, and it must be a whole number."
            assert value >= 1, f"Options.{name} is {value!r}, and it must be at least 1."

    def test_an_idle_queue_admits(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """An ordinary request is admitted where nothing else waits."""
        answer = self.policy(sandbox, context).admit(request("first"), Stats(now=_START, kv_capacity=4096))
        assert isinstance(answer, Admit), f"admit returned {answer!r} for the only request there is."

    def test_a_flood_gets_answers(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """For a queue of any length, ``admit`` returns ``Admit``, or ``Reject`` with a reason and a non-negative ``retry_after``."""
        policy = self.policy(sandbox, context)
        for i in range(2000):
            stats = Stats(now=_START, waiting=i, running=4, waiting_tokens=30 * i, kv_used=900, kv_capacity=1000, decode_rate=20.0)
            answer = policy.admit(request(f"flood-{i}", tenant=f"t{i % 7}", deadline=_START + i % 50), stats)
            assert isinstance(answer, Admit | Reject), f"admit returned {answer!r}."
            if isinstance(answer, Reject):
                assert answer.reason, "A rejection needs a reason."
                assert answer.retry_after is None or answer.retry_after >= 0, f"retry_after is {answer.retry_after!r}."

    def test_odd_requests_are_ranked(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """Every kind of request can be ranked against every other, and ranking one twice at one time gives the same."""
        policy = self.policy(sandbox, context)
        odd = [
            request("plain"),
            request("urgent", priority=10**6),
            request("patient", priority=-(10**6)),
            request("late", deadline=_START - 5),
            request("soon", deadline=_START + 0.01),
            request("light", weight=1e-6),
            request("heavy", weight=1e6),
            request("nameless", tenant=""),
            request("租户", tenant="租户 🙂"),
            request("short", prompt=1, new=1),
            request("long", prompt=5000, new=5000),
        ]
        views = []
        for i, item in enumerate(odd):
            assert isinstance(policy.admit(item, Stats(now=_START)), Admit | Reject)
            state: Any = ("waiting", "running", "preempted")[i % 3]
            sequence = SimulatedSequence(request=item, state=state, computed=i, generated=i % 2, waited=float(i))
            views.append(sequence.view())
        ranks = [policy.rank(view, _START + 1) for view in views]
        assert ranks == [policy.rank(view, _START + 1) for view in views], "rank is not the same for the same sequence at the same time."
        for a in ranks:
            for b in ranks:
                assert (a < b) + (b < a) + (a == b) == 1, f"The ranks {a!r} and {b!r} have no order."
        for view in views:
            policy.victim([other for other in views if other is not view], view, _START + 1)

    def test_quantum_is_a_number(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """``quantum`` returns a whole number for any budget and any number of pending prompt tokens."""
        policy = self.policy(sandbox, context)
        for budget in (1, 7, 64, 4096):
            for prompt in (1, 63, 5000):
                item = request(f"q{budget}-{prompt}", prompt=prompt)
                policy.admit(item, Stats(now=_START))
                quantum = policy.quantum(SimulatedSequence(request=item, state="running").view(), budget)
                assert isinstance(quantum, int | np.integer), f"quantum returned {quantum!r} for a budget of {budget}."

    @pytest.mark.parametrize("seed", range(4))
    def test_serves_every_request_once(self, sandbox: PluginSandbox, context: SandboxContext, seed: int) -> None:
        """For random arrivals, each request is served once and completely, within a few times the least number of steps."""
        requests = workload(seed)
        loop = self.simulation(sandbox, context)
        loop.run(requests, max_steps=_STEPS)
        _served(loop, requests)
        work = sum(len(r.tokens) + r.max_new_tokens for r in requests)
        spent = sum(s.cost for s in loop.done.values())
        assert spent <= 3 * work, f"Preemption made {spent} tokens of {work}; preempt only for something strictly better, with hysteresis."
        most = max(loop.done.values(), key=lambda s: s.preemptions)
        assert most.preemptions <= 10, (
            f"{most.request.id} lost its slot {most.preemptions} times; sequences take turns at losing their work."
        )

    @pytest.mark.parametrize("seed", range(2))
    def test_serves_under_memory_pressure(self, sandbox: PluginSandbox, context: SandboxContext, seed: int) -> None:
        """All requests are served with a KV cache that holds little more than one long sequence."""
        requests = workload(10 + seed, count=25)
        loop = self.simulation(sandbox, context, kv_capacity=160)
        loop.run(requests, max_steps=_STEPS)
        _served(loop, requests)

    @pytest.mark.parametrize("rival", _RIVALRIES)
    def test_starves_nobody(self, sandbox: PluginSandbox, context: SandboxContext, rival: str) -> None:
        """No starvation: while rivals that the policy may rank better arrive faster than they can be served, waiting requests are served
        in time."""
        rivalry = _RIVALRIES[rival]
        loop = self.simulation(sandbox, context)
        every = loop.step_seconds * 11 / (1.3 * loop.slots)  # a rival holds a slot for 11 steps: 1.3 times what can be served
        burst = [rivalry.make_rival("burst", i, _START) for i in range(3 * loop.slots)]
        waiting = [request(f"waiting-{i}", arrival=_START + 1, **rivalry.waiting) for i in range(4)]
        times = np.arange(_START + 1.25, _START + self.patience, every)
        stream = [rivalry.make_rival("rival", i, float(t)) for i, t in enumerate(times)]
        awaited = [r.id for r in waiting]
        loop.run([*burst, *waiting, *stream], max_steps=round(self.patience / loop.step_seconds), awaited=awaited)
        assert not loop.problems, loop.problems[0]
        starved = [name for name in awaited if name not in loop.done]
        assert not starved, f"{', '.join(starved)} got no answer in {self.patience:g} seconds beside rivals that are {rival}."

    @pytest.mark.parametrize("seed", range(3))
    def test_respects_cancellation(self, sandbox: PluginSandbox, context: SandboxContext, seed: int) -> None:
        """Cancelled requests, waiting or running, are not chosen as victims any more, and all others are served."""
        rng = np.random.default_rng(100 + seed)
        requests = workload(20 + seed)
        gone = [(r.arrival + float(rng.uniform(0, 4)), r.id) for r in requests if rng.random() < 0.4]
        loop = self.simulation(sandbox, context)
        loop.run(requests, max_steps=_STEPS, cancels=gone)
        assert loop.cancelled, "The simulation cancelled nothing."
        assert not loop.cancelled & set(loop.done), "A cancelled request was served all the same."
        _served(loop, [r for r in requests if r.id not in loop.cancelled])

    def test_changes_nothing_it_is_shown(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """A policy only reads the views of sequences, and keeps its state elsewhere: views are read-only and have the attributes of
        ``SequenceView`` only."""
        loop = self.simulation(sandbox, context)
        try:
            loop.run(workload(40, count=12), max_steps=400)
        except (AttributeError, TypeError) as error:
            pytest.fail(f"The policy needs what a SequenceView has not, or changes it ({error}); read its attributes only.")

    @pytest.mark.parametrize("seed", range(2))
    def test_takes_over_a_queue(self, sandbox: PluginSandbox, context: SandboxContext, seed: int) -> None:
        """A policy that replaces another one gets ``admit`` for all unfinished requests, and serves them even where it rejects them."""
        requests = workload(50 + seed, count=30, seconds=2.0)
        loop = Simulation(FirstCome())
        for item in requests:
            loop.submit(item)
        for _ in range(5):
            loop.step()
        try:
            loop.use_policy(self.policy(sandbox, context))
            loop.run((), max_steps=_STEPS)
        except LookupError as error:
            pytest.fail(f"The policy does not know {error}, which was live when it took over; what it refused then stays all the same.")
        _served(loop, requests)

    def test_same_work_same_order(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """Two policies with the same options and seed serve the same requests in the same order."""
        orders = []
        for _ in range(2):
            loop = self.simulation(sandbox, context)
            loop.run(workload(30), max_steps=_STEPS)
            orders.append(list(loop.done))
        assert orders[0] == orders[1], "The order of service differs from run to run."

    def test_forgets_what_is_over(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """A policy's state does not grow with the number of finished requests."""
        loop = self.simulation(sandbox, context)

        def serve(label: str, count: int) -> int:
            requests = [
                request(f"{label}-{i}", prompt=4, new=2, arrival=loop.now + i * loop.step_seconds, tenant=f"{label}-{i}")
                for i in range(count)
            ]
            loop.run(requests, max_steps=4 * count, cancels=[(r.arrival, r.id) for r in requests[::10]])
            return held_elements(loop.policy)

        before = serve("first", 500)
        after = serve("second", 1500)
        assert after - before < 500, (
            f"The policy holds {after - before} elements more after 1,500 requests of as many tenants; drop them when over."
        )

    def test_charges_of_strangers_do_no_harm(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """``on_commit`` takes an empty step, and a last charge without tokens."""
        policy = self.policy(sandbox, context)
        policy.on_commit([])
        policy.admit(request("a"), Stats(now=_START))
        policy.on_commit([Charge(id="a", tenant="default", weight=1.0, finished=True)])


def _served(loop: Simulation, requests: Iterable[Request]) -> None:
    assert not loop.problems, loop.problems[0]
    for item in requests:
        refused = loop.rejected.get(item.id)
        assert refused is None or refused.retry_after is not None, f"{item.id} was refused for good, with room enough: {refused}."
        assert item.id in loop.done, f"{item.id} was never served in {loop.steps} steps."
        served = loop.done[item.id]
        assert served.generated == item.max_new_tokens, f"{item.id} got {served.generated} of {item.max_new_tokens} tokens."


def held_elements(root: object) -> int:
    """Count of the elements of all containers reachable from an object's attributes."""
    count, todo, seen = 0, [root], set()
    leaves = (str, bytes, int, float, complex, type(None), type, types.ModuleType, types.FunctionType, np.ndarray)
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, leaves):
            continue
        seen.add(id(item))
        if isinstance(item, Mapping):
            count += len(item)
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, Sequence | set | frozenset) or (hasattr(item, "__len__") and hasattr(item, "__iter__")):
            count += len(item)
            todo += list(item)
        todo += list(getattr(item, "__dict__", {}).values())
        for cls in type(item).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            todo += [getattr(item, name) for name in ((slots,) if isinstance(slots, str) else slots) if hasattr(item, name)]
    return count
