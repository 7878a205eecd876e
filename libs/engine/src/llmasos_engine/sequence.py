"""The state of one request in the engine loop, and the work that turns its logits into the answer. Decisions are the scheduler's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from llmasos_engine.sampler import SamplingState
from llmasos_engine.views import View, frozen, new_view
from llmasos_hookspecs import SOURCE, Draw, LLMasOSError, PlacedMedia, PromptProgress, Request
from llmasos_hookspecs.engine import Want
from llmasos_hookspecs.scheduling import State
from llmasos_hookspecs.tasks import FinishReason

#: The slot of a sequence that holds none.
NO_SLOT: Final = -1
#: Most tokens of a row that wants the logits of every token: 64 float32 rows of a vocabulary of 150,000 take 38 MB.
_ALL_LOGITS: Final = 64


class Work(Protocol):
    """Turns what one sequence computes into an answer, and gives that to the caller's ticket."""

    def begin(self, sequence: Sequence) -> None:
        """Set what the sequence computes (``tokens``, ``limit``, ``logits_from``), before it is queued."""
        ...

    def fail(self, error: LLMasOSError) -> None:
        """The request failed; tell the caller."""
        ...

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """The request is over; give the caller the answer."""
        ...


class TokenReader(Work, Protocol):
    """Work that reads sampled tokens: a generation."""

    reads: ClassVar[Literal["tokens"]]

    @property
    def sampling(self) -> SamplingState:
        """Parameters, penalties and random stream of the sampler."""
        ...

    def push(self, sequence: Sequence, token: int, logits: npt.NDArray[np.float32]) -> FinishReason | None:
        """Read the token that was sampled from the logits [vocab]; the reason where it is the last."""
        ...

    def drafted(self, drafted: int, right: int) -> None:
        """Sampling confirmed the first ``right`` of ``drafted`` draft tokens."""
        ...


class LogitsReader(Work, Protocol):
    """Work that reads logits instead of sampling from them: scores, raw logits, beam search."""

    reads: ClassVar[Literal["logits"]]

    def accept(self, sequence: Sequence, position: int, logits: npt.NDArray[np.float32], rewind: Callable[[Sequence, int], Any]) -> bool:
        """Read the logits [n, vocab] of the tokens from ``position`` on. True where the work is complete.

        To continue with other tokens, it replaces the sequence's tokens and calls ``rewind`` with the sequence and the number of leading
        tokens that remain valid.
        """
        ...


class Sequence:
    """The tokens of a request, and how many of them the engine has computed in which slot. Private to core: a policy gets ``view``.

    Attributes:
        request: as submitted.
        shown: a copy of it that the policy cannot change.
        work: turns the logits into the answer: text, scores, raw logits.
        tokens: the prompt, then what was generated.
        prompt_length: tokens of the prompt.
        computed: tokens whose keys and values are in ``slot``.
        draft: draft tokens that the planned step verifies.
        drafter: proposes at most so many draft tokens; None where the request does not use prompt lookup.
        draw: makes the ``Draw`` of the next token, where the engine samples it; None where core samples.
        logits_from: first position whose logits are wanted, with all after it; None where only the last position's are.
        group: sequences that end when this one does: beams of one search.
        limit: tokens its slot will hold at most.
        media: the media in its prompt.
        on_prefill: is told how much of the prompt is computed, until all of it is; None where nobody is to be told any more.
        high_water: most tokens it ever had computed; it may be preempted only once it has computed more.
        cost: tokens the engine computed for it.
        queued, started, first_token: seconds of the clock.
    """

    __slots__ = (
        "_clock",
        "_waited",
        "_without_slot_since",
        "cached",
        "computed",
        "cost",
        "draft",
        "drafter",
        "draw",
        "first_token",
        "generated",
        "group",
        "high_water",
        "limit",
        "logits_from",
        "media",
        "on_prefill",
        "preemptions",
        "prompt_length",
        "queued",
        "request",
        "shown",
        "slot",
        "started",
        "state",
        "tokens",
        "work",
    )

    def __init__(self, request: Request, work: TokenReader | LogitsReader, clock: Callable[[], float]) -> None:
        self.request: Final = request
        self.shown: Final = frozen(request)
        self.work: Final = work
        self.tokens: list[int] = list(request.tokens)
        self.prompt_length = len(self.tokens)
        self.media: Final = request.media
        self.computed = 0
        self.generated = 0
        self.draft: tuple[int, ...] = ()
        self.drafter: Callable[[Sequence, int], tuple[int, ...]] | None = None
        self.draw: Callable[[], Draw] | None = None
        self.logits_from: int | None = None
        self.on_prefill: Callable[[PromptProgress], object] | None = None
        self.slot = NO_SLOT
        self.state: State = "waiting"
        self.cached = 0
        self.preemptions = 0
        self.group: tuple[Sequence, ...] = ()
        self.high_water = 0
        self.cost = 0
        self.limit = self.prompt_length + request.max_new_tokens
        self.queued = clock()
        self.started: float | None = None
        self.first_token: float | None = None
        self._clock = clock
        self._waited = 0.0
        self._without_slot_since: float | None = self.queued

    def __repr__(self) -> str:
        return f"<Sequence {self.request.id} {self.state}: {self.computed} of {len(self.tokens)} tokens computed>"

    @property
    def pending(self) -> int:
        """Tokens known but not computed: the rest of the prompt, or the token sampled last."""
        return len(self.tokens) - self.computed

    def view(self) -> View:
        """A snapshot for the policy."""
        generated, since = self.generated, self._without_slot_since
        rest = len(self.tokens) - self.computed - (1 if generated else 0)
        remaining = (rest if rest > 0 else 0) + self.request.max_new_tokens - generated
        waited = self._waited if since is None else self._waited + self._clock() - since
        # Neither View(...) nor the properties that say the same: they make it twice as slow, and it is made for every rank.
        return new_view(View, (self.shown, self.state, self.computed, remaining, generated, self.cached, self.preemptions, waited))

    @property
    def remaining(self) -> int:
        rest = len(self.tokens) - self.computed - (1 if self.generated else 0)
        return max(0, rest) + self.request.max_new_tokens - self.generated

    @property
    def waited(self) -> float:
        since = self._without_slot_since
        return self._waited if since is None else self._waited + self._clock() - since

    @property
    def decoding(self) -> bool:
        """Whether its next step computes one generated token (decode, not prefill)."""
        return self.generated > 0 and len(self.tokens) - self.computed == 1

    @property
    def continued(self) -> bool:
        """Whether the token that it computes next was generated. After a preemption generated tokens are recomputed in decode rows, as the
        first time, because kernels for a prompt may round differently."""
        return self.generated > 0 and self.computed >= self.prompt_length

    @property
    def reusable(self) -> int:
        """Longest prefix, in tokens, that may come from the prefix cache: the logits that are still wanted need a step of their own.

        Two tokens are left to compute, not one: kernels for one token round differently from those for several, and a prompt from the
        prefix cache must get logits bitwise identical to those of a prompt that was computed. The target of an encoder-decoder usually
        begins with a single token, which is always computed alone; so all of the source may come from the cache.
        """
        most = len(self.tokens) - 2
        if self.logits_from is not None:
            most = min(most, self.logits_from - 2)
        return max(0, self.source_end, self.before_whole(most))

    @property
    def source_end(self) -> int:
        """Where the source of an encoder-decoder ends; 0 without one."""
        return self.media[0].end if self.media and self.media[0].media.kind == SOURCE else 0

    def before_whole(self, length: int) -> int:
        """``length``, or less where it would cut media that are computed whole: then where these begin."""
        return next((placed.start for placed in self.media if placed.whole and placed.start < length < placed.end), length)

    def _after_whole(self, length: int) -> int:
        """``length``, or more where it would cut media that are computed whole: then where these end."""
        return next((placed.end for placed in self.media if placed.whole and placed.start < length < placed.end), length)

    def media_within(self, start: int, end: int) -> tuple[PlacedMedia, ...]:
        """The media with positions in ``start`` to ``end``."""
        return tuple(placed for placed in self.media if placed.start < end and placed.end > start)

    def chunk(self, tokens: int) -> tuple[int, Want]:
        """How many of the next ``tokens`` tokens to compute in one row, and which logits to request. The last chunk of a prompt never has
        one token only (see ``reusable``). Where the end would cut media that are computed whole, the row has more tokens: all of these."""
        if self.logits_from is not None and self.computed >= self.logits_from:
            return self._after_whole(self.computed + min(tokens, _ALL_LOGITS)) - self.computed, "all"
        wanted = len(self.tokens) if self.logits_from is None else self.logits_from + 1
        rest = (self.prompt_length if self.generated and not self.continued else wanted) - self.computed
        last = self.computed + rest
        end = self._after_whole(self.computed + min(tokens, rest))
        if not self.continued and end == last - 1 > self.computed + 1 and end != self.source_end:
            end = end - 1 if self.before_whole(end - 1) == end - 1 else last
        return end - self.computed, "last" if end == wanted else "none"

    def append(self, token: int) -> None:
        """Append a sampled token."""
        if self.first_token is None:
            self.first_token = self._clock()
        self.tokens.append(token)
        self.generated += 1

    def replace(self, tokens: list[int]) -> None:
        """Replace the tokens; the caller sets ``computed`` to match."""
        if self.first_token is None:
            self.first_token = self._clock()
        self.tokens = tokens
        self.generated = len(tokens) - self.prompt_length

    def start(self, slot: int, computed: int) -> None:
        """Assign a slot that already holds the sequence's first ``computed`` tokens."""
        now = self._clock()
        if self.started is None:
            self.started = now
            self.cached = computed
        if self._without_slot_since is not None:
            self._waited += now - self._without_slot_since
            self._without_slot_since = None
        self.slot = slot
        self.computed = computed
        self.state = "running"
        self.tell_prefill()

    def tell_prefill(self) -> None:
        """Tell how much of the prompt is computed; that all of it is, once."""
        if self.on_prefill is None or self.started is None:
            return
        processed = min(self.computed, self.prompt_length)
        seconds = self._clock() - self.started
        self.on_prefill(PromptProgress(total=self.prompt_length, cached=self.cached, processed=processed, seconds=seconds))
        if processed == self.prompt_length:
            self.on_prefill = None

    def leave_slot(self, state: State) -> None:
        """Release the slot: the sequence was preempted, and will be recomputed, or is finished."""
        if state == "preempted":
            self.preemptions += 1
            self._without_slot_since = self._clock()
        elif self._without_slot_since is not None:
            self._waited += self._clock() - self._without_slot_since
            self._without_slot_since = None
        self.slot = NO_SLOT
        self.computed = 0
        self.draft = ()
        self.state = state
