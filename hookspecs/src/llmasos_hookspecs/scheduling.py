"""The scheduling contract: a policy decides admission, order, preemption victims and prefill chunks; core does the rest.

A policy cannot break a request: core alone owns slots, the KV ledger, cancellation, deadlines and sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import attrs

from llmasos_hookspecs.media import PlacedMedia
from llmasos_hookspecs.sampling import SamplingParams

State = Literal["waiting", "running", "preempted", "finished"]


@attrs.frozen(kw_only=True)
class Request:
    """One generation, as a policy sees it. Times are seconds of ``time.monotonic``.

    Attributes:
        id: unique among the pipeline's requests.
        model: name of the model in the pipeline.
        tokens: the prompt's token ids; those of media are virtual tokens, past the vocabulary.
        max_new_tokens: tokens to generate at most.
        arrival: when it was submitted.
        tenant: the account that the request is charged to; no KV is shared between tenants.
        priority: higher is more urgent.
        weight: share of a tenant under fair policies.
        deadline: when the request fails if it has not finished; None: never.
        sampling: how tokens are drawn.
        media: the media in the prompt, in the order of their places.
        adapter: name of the adapter that it is computed with; empty: none.
    """

    id: str
    model: str
    tokens: Sequence[int]
    max_new_tokens: int
    arrival: float
    tenant: str = "default"
    priority: int = 0
    weight: float = 1.0
    deadline: float | None = None
    sampling: SamplingParams = attrs.field(factory=SamplingParams)
    media: tuple[PlacedMedia, ...] = ()
    adapter: str = ""


class SequenceView(Protocol):
    """An unfinished request, read-only. Counts are tokens.

    Attributes:
        state: ``waiting`` (not started), ``running`` (holds a slot), ``preempted`` (lost its slot, will be recomputed), ``finished``.
        computed: tokens whose keys and values are in the slot.
        remaining: tokens yet to compute, at most: the rest of the prompt and the new tokens not yet generated.
        generated: new tokens so far.
        cached: prompt tokens that came from the prefix cache.
        preemptions: how often it lost its slot.
        waited: seconds spent without a slot.
    """

    @property
    def request(self) -> Request: ...
    @property
    def state(self) -> State: ...
    @property
    def computed(self) -> int: ...
    @property
    def remaining(self) -> int: ...
    @property
    def generated(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def waited(self) -> float: ...


@attrs.frozen(kw_only=True)
class Stats:
    """The state of a model's queue at one moment.

    Attributes:
        now: ``time.monotonic`` seconds.
        waiting, running: sequences.
        waiting_tokens: tokens yet to compute, at most, over all waiting sequences.
        waiting_prompt_tokens: prompt tokens among them.
        kv_used, kv_capacity: tokens in the KV ledger; capacity 0 is unknown.
        prefill_rate, decode_rate: tokens a second, smoothed; 0 before the first measurement.
    """

    now: float
    waiting: int = 0
    running: int = 0
    waiting_tokens: int = 0
    waiting_prompt_tokens: int = 0
    running_tokens: int = 0
    kv_used: int = 0
    kv_capacity: int = 0
    prefill_rate: float = 0.0
    decode_rate: float = 0.0


@attrs.frozen
class Admit:
    """The request may queue."""


@attrs.frozen
class Reject:
    """The request is refused. ``retry_after`` in seconds; None where trying again cannot help."""

    reason: str
    retry_after: float | None = None


@attrs.frozen(kw_only=True)
class Charge:
    """The tokens that one sequence used in one step. ``finished`` is set in its last charge."""

    id: str
    tenant: str
    weight: float
    prefill_tokens: int = 0
    decode_tokens: int = 0
    finished: bool = False


@runtime_checkable
class SchedulingPolicy(Protocol):
    """Decides which requests are admitted, in which order they run, which running sequence is preempted, and how long prefill chunks are.

    An ``Options`` class may have the fields ``max_sequences`` (sequences that hold a slot at once) and ``step_tokens`` (tokens that
    one step computes at most); core reads and keeps both. All methods are called from one thread; none may block.
    """

    def admit(self, request: Request, stats: Stats) -> Admit | Reject:
        """Whether the request may queue at all."""
        ...

    def rank(self, sequence: SequenceView, now: float) -> Any:
        """A sortable key; the smaller runs first."""
        ...

    def victim(self, running: Sequence[SequenceView], needy: SequenceView, now: float) -> str | None:
        """The request id of the preemption victim: the sequence of ``running`` that loses its slot to ``needy``; None: no preemption.
        Choose one only where ``needy`` ranks strictly better, with some hysteresis, or the two will preempt each other in turn."""
        ...

    def quantum(self, sequence: SequenceView, budget: int) -> int:
        """The prefill chunk of ``sequence`` in this step: prompt tokens, of the ``budget`` that is left; core clips it to 1 .. budget."""
        ...

    def on_commit(self, charges: Sequence[Charge]) -> None:
        """Called once a step, after it succeeded, with the tokens that each sequence used."""
        ...
