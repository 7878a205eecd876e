"""A simulated engine loop around a scheduling policy, on a virtual clock and without an engine.

It calls a policy as core does: it sorts by ``rank``, calls ``victim`` when slots or KV memory run out, clips ``quantum``, and reports with
``on_commit``. The conformance tests read its counters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import attrs
import numpy as np

from llmasos_hookspecs.scheduling import Admit, Charge, Reject, Request, SchedulingPolicy, State, Stats


class SimulatedView(NamedTuple):
    """The ``SequenceView`` that a policy gets: read-only like core's, with a reference to the request and nothing else."""

    request: Request
    state: State
    computed: int
    remaining: int
    generated: int
    cached: int
    preemptions: int
    waited: float


_new_tuple: Final[Any] = tuple.__new__


@attrs.define(eq=False, kw_only=True)
class SimulatedSequence:
    """A sequence with the counters of the loop."""

    request: Request
    state: State = "waiting"
    computed: int = 0
    generated: int = 0
    cached: int = 0
    preemptions: int = 0
    waited: float = 0.0
    finished_at: float | None = None
    cost: int = 0

    @property
    def remaining(self) -> int:
        prefill = len(self.request.tokens) - self.computed
        return (prefill if prefill > 0 else 0) + self.request.max_new_tokens - self.generated

    def view(self) -> SimulatedView:
        """A snapshot for the policy."""
        # Most of a simulation's time: one for each live sequence at each step, which `SimulatedView(...)` would make in twice the time.
        counts = (self.computed, self.remaining, self.generated, self.cached, self.preemptions)
        values = (self.request, self.state, *counts, self.waited)
        found: SimulatedView = _new_tuple(SimulatedView, values)
        return found

    @property
    def to_prefill(self) -> int:
        """Tokens whose keys and values are missing: the prompt, and after a preemption the generated tokens too."""
        known = len(self.request.tokens) + self.generated
        return known - self.computed


class Simulation:
    """Runs requests through a policy.

    Args:
        policy: what is under test.
        slots: sequences that can run at once.
        kv_capacity: tokens that the KV cache holds.
        step_tokens: tokens that one step computes at most.
        step_seconds: virtual seconds that a step takes.
    """

    def __init__(
        self, policy: SchedulingPolicy, *, slots: int = 4, kv_capacity: int = 2048, step_tokens: int = 64, step_seconds: float = 0.25
    ) -> None:
        self.policy = policy
        self.slots = slots
        self.kv_capacity = kv_capacity
        self.step_tokens = step_tokens
        self.step_seconds = step_seconds
        self.now = 1000.0
        self.steps = 0
        self.live: list[SimulatedSequence] = []
        self.done: dict[str, SimulatedSequence] = {}
        self.cancelled: set[str] = set()
        self.rejected: dict[str, Reject] = {}
        self.problems: list[str] = []

    def submit(self, request: Request) -> bool:
        """Ask the policy; whether the request queues."""
        answer = self.policy.admit(request, self.stats())
        if isinstance(answer, Reject):
            self.rejected[request.id] = answer
            if not answer.reason:
                self.problems.append(f"admit refused {request.id} without a reason.")
            return False
        self.rejected.pop(request.id, None)
        if not isinstance(answer, Admit):
            self.problems.append(f"admit returned {answer!r}, and it must return Admit() or Reject(reason).")
        self.live.append(SimulatedSequence(request=request))
        return True

    def use_policy(self, policy: SchedulingPolicy) -> None:
        """Switch to another policy, as core does: its ``admit`` is called for all unfinished requests, which are kept even where it rejects
        them."""
        self.policy = policy
        for sequence in self.live:
            policy.admit(sequence.request, self.stats())

    def cancel(self, request_id: str) -> None:
        """Cancel a sequence at once, in any state; its last charge has ``finished`` set."""
        for sequence in self.live:
            if sequence.request.id == request_id:
                self.live.remove(sequence)
                sequence.state = "finished"
                self.cancelled.add(request_id)
                self.policy.on_commit([self._charge(sequence, 0, 0, finished=True)])
                return

    def stats(self) -> Stats:
        """The queue at this moment."""
        running = [s for s in self.live if s.state == "running"]
        waiting = [s for s in self.live if s.state != "running"]
        return Stats(
            now=self.now,
            waiting=len(waiting),
            running=len(running),
            waiting_tokens=sum(s.remaining for s in waiting),
            running_tokens=sum(s.remaining for s in running),
            kv_used=self._kv_used(),
            kv_capacity=self.kv_capacity,
            prefill_rate=self.step_tokens / self.step_seconds,
            decode_rate=self.slots / self.step_seconds,
        )

    def run(
        self, arrivals: Iterable[Request], *, max_steps: int, cancels: Sequence[tuple[float, str]] = (), awaited: Iterable[str] = ()
    ) -> None:
        """Submit requests at their arrival times, and run steps until all are served, or all that are ``awaited`` by their ids where any
        are, or ``max_steps`` have passed.

        A request that is rejected with ``retry_after`` is submitted again after that time, as a client would.
        """
        due = deque(sorted(arrivals, key=lambda r: r.arrival))
        gone = deque(sorted(cancels))
        again: list[tuple[float, Request]] = []
        names = frozenset(awaited)
        for _ in range(max_steps):
            while due and due[0].arrival <= self.now:
                self._offer(due.popleft(), again)
            for entry in [entry for entry in again if entry[0] <= self.now]:
                again.remove(entry)
                self._offer(entry[1], again)
            while gone and gone[0][0] <= self.now:
                self.cancel(gone.popleft()[1])
            if (not due and not again and not self.live) or (names and names <= self.done.keys()):
                return
            self.step()

    def _offer(self, request: Request, again: list[tuple[float, Request]]) -> None:
        if not self.submit(request):
            retry = self.rejected[request.id].retry_after
            if retry is not None:
                again.append((self.now + max(retry, self.step_seconds), request))

    def step(self) -> None:
        """One step of every running sequence that the budget allows."""
        self._seat()
        budget, charges, kept = self.step_tokens, [], self._kv_used()
        for sequence in self._ranked([s for s in self.live if s.state == "running"]):
            if budget <= 0:
                break
            if sequence.state != "running":  # preempted earlier in this step
                continue
            wanted = sequence.to_prefill
            if wanted > 1:
                wanted = min(wanted, self._quantum(sequence, budget))
            wanted = min(max(1, wanted), budget)
            while kept + wanted > self.kv_capacity and self._make_room(sequence):
                kept = self._kv_used()
            if sequence.state != "running" or kept + wanted > self.kv_capacity:
                continue
            prefill = sequence.to_prefill > 1
            sequence.computed += wanted
            sequence.cost += wanted
            kept += wanted
            budget -= wanted
            if sequence.to_prefill == 0:
                sequence.generated += 1
            over = sequence.generated >= sequence.request.max_new_tokens
            charges.append(self._charge(sequence, wanted if prefill else 0, 0 if prefill else wanted, finished=over))
            if over:
                self._finish(sequence)
                kept = self._kv_used()
        self.now += self.step_seconds
        self.steps += 1
        for sequence in self.live:
            if sequence.state != "running":
                sequence.waited += self.step_seconds
        if charges:
            self.policy.on_commit(charges)

    def _seat(self) -> None:
        """Give free slots, and those that preemptions free, to the best-ranked waiting sequences."""
        for sequence in self._ranked([s for s in self.live if s.state in ("waiting", "preempted")]):
            running = [s for s in self.live if s.state == "running"]
            room = len(running) < self.slots and self._kv_used() + self._reserve(sequence) <= self.kv_capacity
            if not room:
                if not running or not self._preempt(running, sequence):
                    return
                if self._kv_used() + self._reserve(sequence) > self.kv_capacity:
                    return
            sequence.state = "running"

    def _reserve(self, sequence: SimulatedSequence) -> int:
        return len(sequence.request.tokens) + sequence.generated + 1 - sequence.computed

    def _preempt(self, running: list[SimulatedSequence], needy: SimulatedSequence) -> bool:
        name = self.policy.victim(tuple(s.view() for s in running), needy.view(), self.now)
        if name is None:
            return False
        by_id = {s.request.id: s for s in running}
        if name not in by_id or name == needy.request.id:
            self.problems.append(f"victim named {name!r}, and it must name one of the running sequences it was given, or None.")
            return False
        self._evict(by_id[name])
        return True

    def _make_room(self, needy: SimulatedSequence) -> bool:
        others = [s for s in self.live if s.state == "running" and s is not needy]
        if others and self._preempt(others, needy):
            return True
        # No sequence can advance: core preempts the worst-ranked running sequence.
        worst = self._ranked([*others, needy])[-1]
        if others:
            self._evict(worst)
        return bool(others) and worst is not needy

    def _evict(self, sequence: SimulatedSequence) -> None:
        sequence.state = "preempted"
        sequence.computed = 0
        sequence.preemptions += 1

    def _finish(self, sequence: SimulatedSequence) -> None:
        if sequence.request.id in self.done:
            self.problems.append(f"{sequence.request.id} was served twice.")
        sequence.state = "finished"
        sequence.finished_at = self.now + self.step_seconds
        self.done[sequence.request.id] = sequence
        self.live.remove(sequence)

    def _ranked(self, sequences: list[SimulatedSequence]) -> list[SimulatedSequence]:
        ranks: list[Any] = [self.policy.rank(s.view(), self.now) for s in sequences]
        if sequences and self.steps % 16 == 0:
            again = self.policy.rank(sequences[0].view(), self.now)
            if again != ranks[0]:
                self.problems.append(f"rank gave {ranks[0]!r} and then {again!r} for the same sequence at the same time.")
        order = sorted(range(len(sequences)), key=ranks.__getitem__)
        return [sequences[i] for i in order]

    def _quantum(self, sequence: SimulatedSequence, budget: int) -> int:
        quantum = self.policy.quantum(sequence.view(), budget)
        if isinstance(quantum, bool) or not isinstance(quantum, int | np.integer):
            self.problems.append(f"quantum returned {quantum!r}, and it must return a whole number of tokens.")
            return budget
        return max(1, min(int(quantum), budget))

    def _charge(self, sequence: SimulatedSequence, prefill: int, decode: int, *, finished: bool) -> Charge:
        r = sequence.request
        return Charge(id=r.id, tenant=r.tenant, weight=r.weight, prefill_tokens=prefill, decode_tokens=decode, finished=finished)

    def _kv_used(self) -> int:
        return sum(s.computed for s in self.live if s.state == "running")
