"""The scheduling mechanism: plan, reserve, execute, commit or release.

The policy decides the order and the preemption victims. The mechanism guarantees that no request is lost, that KV memory is never
over-committed, and that no sequence starves. It does no input or output and reads only the clock it is given, so that a simulation runs
the same code.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_engine.kv_slots import KVSlots
from llmasos_engine.policy import GuardedPolicy
from llmasos_engine.prefix_cache import sharing
from llmasos_engine.rates import Rates
from llmasos_engine.sequence import Sequence
from llmasos_engine.waiting import WaitingQueue
from llmasos_hookspecs import Charge, Reject, Rejected, Request, Row, SchedulingPolicy, Stats

#: Tokens kept free for each running sequence to grow before another one may start; with less, a started sequence is soon preempted.
_HEADROOM: Final = 8
#: Of a row that is not computed.
_NO_LOGITS: Final = np.empty((0, 0), np.float32)
#: Most preemptions in favour of waiting sequences in one step: each asks the policy about all running sequences.
_PREEMPTIONS: Final = 4


@attrs.define(eq=False)
class Planned:
    """A sequence and its row in the planned step; KV memory for the row is reserved.

    Attributes:
        logits: what the engine computed for the row; empty before.
    """

    sequence: Sequence
    row: Row
    logits: npt.NDArray[Any] = _NO_LOGITS


class Scheduler:
    """Chooses the rows of each step, and moves sequences between the waiting queue and the slots.

    Attributes:
        running: sequences that hold a slot, in the order they got it.
        waiting: sequences that hold none.
        max_sequences: sequences that may run at once.
        step_tokens: tokens that one step may compute.
        row_tokens: tokens that one row may have; less than ``step_tokens`` after the engine reported a capacity shortage.
        rates: tokens a second, for the policy.
        preempted: count of preemptions.
    """

    def __init__(
        self,
        policy: SchedulingPolicy,
        cache: KVSlots,
        *,
        clock: Callable[[], float],
        max_sequences: int = 8,
        step_tokens: int = 512,
        label: str = "",
    ) -> None:
        """``label``: names the policy's plugin in messages."""
        self.policy = GuardedPolicy(policy, label)
        self.cache: Final = cache
        self.waiting: Final = WaitingQueue(self.policy)
        self.running: list[Sequence] = []
        self.rates: Final = Rates()
        self.max_sequences = max_sequences
        self.step_tokens = step_tokens
        self.row_tokens = step_tokens
        self._clock = clock
        self._followers: dict[Sequence, list[Sequence]] = {}
        self._charges: dict[Sequence, tuple[int, int]] = {}
        self._hold = False
        self.preempted = 0

    # Adding and removing sequences

    def admit(self, request: Request) -> None:
        """Ask the policy whether to admit a request (read-only). Raises ``Rejected`` with the policy's reason."""
        answer = self.policy.admit(request, self.stats())
        if isinstance(answer, Reject):
            raise Rejected(f"Request {request.id} was refused by the scheduler: {answer.reason}", answer.retry_after)

    def add(self, sequence: Sequence, leader: Sequence | None = None) -> None:
        """Queue a sequence. With a ``leader``, which has the same prompt, it waits until that prompt is computed, to fork it."""
        if leader is not None and leader.state != "finished" and leader.computed < leader.prompt_length:
            self._followers.setdefault(leader, []).append(sequence)
        else:
            self.waiting.push(sequence, self._clock())

    def finish(self, sequence: Sequence, *, keep: bool = True) -> None:
        """End a sequence and free its slot. With ``keep`` its keys and values go to the prefix cache; after an error they may be wrong."""
        if sequence.state == "running":
            self.running.remove(sequence)
            self.cache.leave(sequence, keep=keep)
        elif sequence in self.waiting:
            self.waiting.remove(sequence, self._clock())
        else:
            for followers in self._followers.values():
                if sequence in followers:
                    followers.remove(sequence)
        sequence.leave_slot("finished")
        self._charges.setdefault(sequence, (0, 0))
        self._release_followers(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Preempt a sequence: free its slot and queue it again. It recomputes what the prefix cache no longer holds then."""
        sequence.high_water = max(sequence.high_water, sequence.computed)
        self.running.remove(sequence)
        self.cache.leave(sequence)
        sequence.leave_slot("preempted")
        self.preempted += 1
        self.waiting.push(sequence, self._clock())
        self._release_followers(sequence)

    def drop_slots(self) -> None:
        """Queue all running sequences again: the engine and all its slots are lost."""
        for sequence in self.running:
            sequence.leave_slot("preempted")
            self.waiting.push(sequence, self._clock())
        self.running = []
        self.cache.clear()

    def sequences(self) -> list[Sequence]:
        """All unfinished sequences."""
        followers = (sequence for group in self._followers.values() for sequence in group)
        return [*self.running, *self.waiting.sequences(), *followers]

    def use_policy(
        self, policy: SchedulingPolicy, *, max_sequences: int | None = None, step_tokens: int | None = None, label: str = ""
    ) -> None:
        """Switch to another policy: running sequences keep running, waiting ones are ranked again.

        The new policy's ``admit`` is called for every unfinished sequence, so that its state covers them. A rejection is ignored, because
        they were admitted before.
        """
        self.settle()  # charges of finished sequences concern the old policy only
        self.policy = GuardedPolicy(policy, label)
        self.max_sequences = max_sequences or self.max_sequences
        self.step_tokens = self.row_tokens = step_tokens or self.step_tokens
        stats = self.stats()
        for sequence in sorted(self.sequences(), key=lambda sequence: sequence.queued):
            self.policy.admit(sequence.shown, stats)
        self.waiting.use_policy(self.policy, self._clock())

    # One step

    def plan(self) -> list[Planned]:
        """The rows of the next step, with KV memory reserved for each; empty where there is nothing to do, or where the only running
        sequence cannot advance."""
        while True:
            if self.waiting.prompt_tokens and not (self._hold and self.running):
                self._start_waiting(self._clock())
            planned = self._rows()
            if planned or len(self.running) < 2:
                return planned
            self.make_room()

    def commit(self, planned: Iterable[Planned]) -> tuple[int, int]:
        """Account for rows that were computed; returns the prompt tokens among them, and the sequences that decoded."""
        charges, ledger = self._charges, self.cache.ledger
        prefilled = decoded = 0
        for part in planned:
            sequence, tokens = part.sequence, len(part.row.tokens)
            prefill, decode = charges.get(sequence, (0, 0))
            if sequence.generated and len(sequence.tokens) - sequence.computed == 1:  # it decodes
                charges[sequence] = (prefill, decode + tokens)
                decoded += 1
            else:
                charges[sequence] = (prefill + tokens, decode)
                prefilled += tokens
            ledger.commit(sequence.slot)
            sequence.computed += tokens
            sequence.cost += tokens
            if self._followers and sequence.computed >= sequence.prompt_length:
                self._release_followers(sequence)
        return prefilled, decoded

    def release(self, planned: Iterable[Planned]) -> None:
        """Release the reservations of rows that failed."""
        for part in planned:
            self.cache.ledger.release(part.sequence.slot)

    def rewind(self, sequence: Sequence, length: int) -> None:
        """Truncate a sequence's slot to its first ``length`` computed tokens."""
        if length < sequence.computed:
            self.cache.truncate(sequence.slot, length)
            sequence.computed = length

    def moved(self) -> None:
        """A step computed something: rows may grow again, and waiting sequences may start."""
        self._hold = False
        if self.row_tokens < self.step_tokens:  # seldom, and a step should make no call for it
            self.row_tokens = min(self.step_tokens, 2 * self.row_tokens)

    def make_room(self, *, hold: bool = False) -> None:
        """Preempt one sequence because none can advance: the policy's victim, else the worst-ranked; never the best-ranked one. ``hold``:
        start no waiting sequence until a step has computed something."""
        self._hold = hold
        best, *others = self.policy.order(self.running, self._clock())
        victim = self.policy.victim(others, best, self._clock())
        self.preempt(victim or others[-1])

    def settle(self) -> None:
        """End a step: report to the policy the tokens that each sequence used, and which sequences finished."""
        if not self._charges:
            return
        charges = []
        for sequence, (prefill, decode) in self._charges.items():
            request, over = sequence.request, sequence.state == "finished"
            charges.append(
                Charge(
                    id=request.id,
                    tenant=request.tenant,
                    weight=request.weight,
                    prefill_tokens=prefill,
                    decode_tokens=decode,
                    finished=over,
                )
            )
        self._charges = {}
        self.policy.on_commit(charges)

    def stats(self) -> Stats:
        ledger = self.cache.ledger
        followers = [sequence for group in self._followers.values() for sequence in group]
        return Stats(
            now=self._clock(),
            waiting=len(self.waiting) + len(followers),
            running=len(self.running),
            waiting_tokens=self.waiting.tokens + sum(sequence.remaining for sequence in followers),
            waiting_prompt_tokens=self.waiting.prompt_tokens + sum(sequence.prompt_length for sequence in followers),
            running_tokens=sum(sequence.remaining for sequence in self.running),
            kv_used=ledger.used - self.cache.prefixes.tokens,
            kv_capacity=ledger.capacity,
            prefill_rate=self.rates.prefill,
            decode_rate=self.rates.decode,
        )

    # Decisions

    def _start_waiting(self, now: float) -> None:
        """Give slots to the best-ranked waiting sequences, while the next step has tokens left for their prompts."""
        self.waiting.refresh(now)
        backlog = sum(self._prefill_tokens(sequence) for sequence in self.running if not sequence.decoding)
        preemptions = 0
        while backlog < self.step_tokens and (sequence := self.waiting.best(now)) is not None:
            if not self._fits(sequence):
                victim = self._victim(sequence, now) if preemptions < _PREEMPTIONS else None
                if victim is None:
                    return
                self.preempt(victim)
                preemptions += 1
                continue
            self.waiting.remove(sequence, now)
            started = False
            try:
                started = self.cache.start(sequence, self.running)
            finally:
                if not started:  # also where the engine is lost: the next engine serves it
                    self.waiting.push(sequence, now)
            if not started:
                return
            self.running.append(sequence)
            backlog += self._prefill_tokens(sequence)

    def _prefill_tokens(self, sequence: Sequence) -> int:
        """Prompt tokens that the policy's quantum lets it compute in the next step."""
        return min(sequence.pending, self.policy.quantum(sequence, self.step_tokens))

    def _fits(self, sequence: Sequence) -> bool:
        """Whether there is a slot, and room for the whole sequence beside what running prompts have yet to take and room to grow."""
        if len(self.running) >= self.max_sequences:
            return False
        need = min(len(sequence.tokens) + 1, sequence.limit)
        promised = sum(other.pending for other in self.running if not other.decoding)
        return self.cache.has_room(need + promised + _HEADROOM * len(self.running))

    def _victim(self, needy: Sequence, now: float) -> Sequence | None:
        """The preemption victim that the policy chooses, of the sequences that have advanced past their high-water mark. So every
        preemption costs at least one token of progress, and no policy can preempt for ever without a sequence finishing."""
        candidates = [sequence for sequence in self.running if sequence.computed > sequence.high_water]
        return self.policy.victim(candidates, needy, now) if candidates else None

    def _rows(self) -> list[Planned]:
        """Rows of one token for the decoding sequences, then prompt chunks in rank order while the token budget lasts."""
        decoding: list[Sequence] = []
        prefilling: list[Sequence] = []
        for sequence in self.running:
            pending = len(sequence.tokens) - sequence.computed
            if pending == 1 and sequence.generated:  # as ``Sequence.decoding``, which would be a call for each
                decoding.append(sequence)
            elif pending:  # else it waits for the other beams of its group
                prefilling.append(sequence)
        budget = self.step_tokens
        # Else all of them fit, and the order does not matter.
        if len(decoding) > 1 and len(decoding) > min(budget, self.cache.ledger.free):
            decoding = self.policy.order(decoding, self._clock())
        planned: list[Planned] = []
        spare = budget - len(decoding)
        for sequence in decoding[:budget]:
            if sequence.drafter is None and sequence.logits_from is None:
                budget -= self._add_decode_row(planned, sequence)
                continue
            draft = sequence.drafter(sequence, min(spare, self.row_tokens - 1)) if sequence.drafter and spare > 0 else ()
            spare -= len(draft)
            budget -= self._add_row(planned, sequence, 1, draft)
        for sequence in self.policy.order(prefilling, self._clock()) if prefilling else ():
            if budget <= 0 or (budget == 1 and planned and sequence.pending > 1):  # one token of a prompt would round differently
                break
            tokens = min(self.policy.quantum(sequence, budget), sequence.pending, self.row_tokens)
            budget -= self._add_row(planned, sequence, tokens, ())
        return planned

    def _add_decode_row(self, planned: list[Planned], sequence: Sequence) -> int:
        """``_add_row`` for a generated token without drafts, as most rows are: with a third of the calls."""
        slot = sequence.slot
        granted = 1 if self.cache.ledger.reserve(slot, 1) else self.cache.reserve(slot, 1)
        if granted:
            draw, tokens = sequence.draw, sequence.tokens
            row = Row(
                slot,
                (tokens[-1],),
                sequence.computed,
                "last",
                True,
                None if draw is None else draw(),
                known=len(tokens),
                adapter=sequence.request.adapter,
            )
            planned.append(Planned(sequence, row))
        return granted

    def _add_row(self, planned: list[Planned], sequence: Sequence, tokens: int, draft: abc.Sequence[int]) -> int:
        """Reserve KV memory and add the row; returns the tokens of the row, 0 where there was no room."""
        tokens, want = sequence.chunk(tokens)
        granted = self.cache.reserve(sequence.slot, tokens + len(draft))
        if (fits := sequence.before_whole(sequence.computed + granted) - sequence.computed) < granted:
            self.cache.ledger.release(sequence.slot)
            granted = fits if fits and self.cache.ledger.reserve(sequence.slot, fits) else 0
        if granted < tokens and want == "last":
            want = "none"
        if granted:
            sequence.draft = tuple(draft[: granted - tokens])
            position = sequence.computed
            wanted = "all" if sequence.draft else want
            draw = sequence.draw() if sequence.draw is not None and wanted == "last" else None
            tokens_given = (*sequence.tokens[position : position + min(tokens, granted)], *sequence.draft)
            media = sequence.media_within(position, position + len(tokens_given))
            row = Row(
                sequence.slot,
                tokens_given,
                position,
                wanted,
                sequence.continued,
                draw,
                known=len(sequence.tokens),
                media=media,
                adapter=sequence.request.adapter,
                sharer=sharing(sequence.request) if media else "",
            )
            planned.append(Planned(sequence, row))
        return granted

    def _release_followers(self, leader: Sequence) -> None:
        for follower in self._followers.pop(leader, ()):
            self.waiting.push(follower, self._clock())
