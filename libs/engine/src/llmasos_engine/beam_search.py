"""Beam search: finds the most likely whole text by keeping several hypotheses.

Each beam is a sequence with its own slot, so that all beams are computed in one step. When the last beam has its logits, the best
continuations over all beams are assigned to the beams again: a beam's slot is truncated to the common prefix with its new hypothesis,
seldom more than a few tokens back. Scores, length penalty and stopping are those of transformers' ``generate``
(``early_stopping=False``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_engine.cuts import largest
from llmasos_engine.detokenizer import Detokenizer
from llmasos_engine.prefix_cache import common_prefix
from llmasos_engine.sampler import SamplingState, log_softmax
from llmasos_engine.sequence import Sequence
from llmasos_engine.stops import StopScanner
from llmasos_engine.ticket import Ticket
from llmasos_engine.virtual import text_tokens
from llmasos_hookspecs import SOURCE, Generation, LLMasOSError, Request, Tokenizer
from llmasos_hookspecs.tasks import FinishReason

Logits = npt.NDArray[np.float32]


@attrs.frozen
class Hypothesis:
    """New tokens, the sum of their log probabilities, and why the text ends with them, if it does."""

    tokens: tuple[int, ...]
    total: float
    reason: FinishReason | None = None

    def score(self, length_penalty: float, given: int) -> float:
        """Log probability, divided by a power of the length, ``given`` tokens before included: above 0 it favours long texts."""
        return float(self.total / (given + len(self.tokens)) ** length_penalty)


class BeamSearch:
    """The hypotheses of one request, and their assignment to beams."""

    def __init__(self, request: Request, tokenizer: Tokenizer, ticket: Ticket[Generation]) -> None:
        self._request = request
        self._params = request.sampling
        self._tokenizer = tokenizer
        self._ticket = ticket
        self._end_tokens = frozenset() if request.sampling.ignore_eos else tokenizer.eos_token_ids
        self._text_tokens = text_tokens(request)
        # The target of an encoder-decoder begins with a start token; tokens given after that count as generated, as in transformers.
        self._given = len(self._text_tokens) - 1 if request.media and request.media[0].media.kind == SOURCE else 0
        self._beams: list[Sequence] = []
        self._alive: dict[int, Hypothesis] = {0: Hypothesis((), 0.0)}  # number of the beam -> what it computes
        self._logits: dict[int, Logits] = {}
        self._finished: list[Hypothesis] = []

    def works(self) -> list[BeamWork]:
        """The work of each beam's sequence."""
        return [BeamWork(self, number) for number in range(self._params.num_beams)]

    def join(self, sequence: Sequence) -> None:
        """Add ``sequence`` as the next beam. The first computes the prompt for all."""
        if not self._beams:
            sequence.on_prefill = self._ticket.prefilled
        self._beams.append(sequence)

    def accept(self, number: int, logits: Logits, rewind: Callable[[Sequence, int], Any]) -> bool:
        """Take the logits [vocab] of a beam; True where the search has ended. The search advances when all beams have theirs."""
        if number not in self._alive:  # it has nothing to compute yet
            return False
        self._logits[number] = logits.copy()
        if len(self._logits) < len(self._alive):
            return False
        ranked = self._continuations()
        width = self._params.num_beams
        self._finished += [self._hypothesis(parent, token, total) for parent, token, total in ranked[:width] if self._ends(parent, token)]
        self._finished = sorted(self._finished, key=self._score, reverse=True)[:width]
        going_on = [each for each in ranked if not self._ends(each[0], each[1])][:width]
        if not going_on or self._is_settled(going_on[0]):
            return True
        self._deal(going_on, rewind)
        return False

    def finish(self, reason: FinishReason) -> None:
        """Give the caller the best finished text, once for all beams; of a cancelled search the best unfinished one."""
        if self._ticket.done:
            return
        going_on = sorted(self._alive.values(), key=lambda each: each.total, reverse=True)
        best = self._finished[0] if self._finished else going_on[0]
        text, stop = self._text(best.tokens)
        self._ticket.emit(text)
        self._ticket.finish(
            Generation(
                text=text,
                tokens=best.tokens,
                finish_reason="cancelled" if reason == "cancelled" else best.reason or "length",
                prompt_tokens=len(self._request.tokens),
                cached_tokens=self._beams[0].cached,
                stop=stop,
            )
        )

    def fail(self, error: LLMasOSError) -> None:
        self._ticket.fail(error)

    def _score(self, hypothesis: Hypothesis) -> float:
        return hypothesis.score(self._params.length_penalty, self._given)

    def _continuations(self) -> list[tuple[int, int, float]]:
        """The best continuations (beam, token, total), best first: enough for all beams even where some end with this token."""
        most = max(2, 1 + len(self._end_tokens)) * self._params.num_beams
        found: list[tuple[int, int, float]] = []
        for number, hypothesis in self._alive.items():
            scores = self._scores(hypothesis, self._logits[number])
            found += [(number, int(token), hypothesis.total + float(scores[token])) for token in largest(scores, most)]
        self._logits = {}
        found = [each for each in found if each[2] > -np.inf]
        return sorted(found, key=lambda each: (-each[2], each[0]))[:most]  # a beam's are in order of their tokens

    def _scores(self, hypothesis: Hypothesis, logits: Logits) -> Logits:
        """Log probabilities [vocab] with penalties and bias applied to them, as transformers does."""
        state = SamplingState(self._params, self._text_tokens)
        for token in hypothesis.tokens:
            state.accept(token)
        return state.changed(log_softmax(logits))

    def _ends(self, parent: int, token: int) -> FinishReason | None:
        tokens = (*self._alive[parent].tokens, token)
        if token in self._end_tokens or (self._params.stop and self._text(tokens)[1] is not None):
            return "stop"
        return "length" if len(tokens) >= self._request.max_new_tokens else None

    def _hypothesis(self, parent: int, token: int, total: float) -> Hypothesis:
        return Hypothesis((*self._alive[parent].tokens, token), total, self._ends(parent, token))

    def _is_settled(self, best: tuple[int, int, float]) -> bool:
        """Whether no unfinished hypothesis is likely to beat the finished ones."""
        if len(self._finished) < self._params.num_beams:
            return False
        return self._score(self._hypothesis(*best)) <= self._score(self._finished[-1])

    def _deal(self, going_on: list[tuple[int, int, float]], rewind: Callable[[Sequence, int], Any]) -> None:
        """Assign each continuation to a beam: its parent's, else the free beam with the longest common prefix."""
        prompt = list(self._request.tokens)
        waiting = [self._hypothesis(*each) for each in going_on]
        alive: dict[int, Hypothesis] = {}
        left: list[Hypothesis] = []
        for (parent, _, _), hypothesis in zip(going_on, waiting, strict=True):
            if parent in alive:
                left.append(hypothesis)
            else:
                alive[parent] = hypothesis
        free = [number for number in range(len(self._beams)) if number not in alive]
        for hypothesis in left:
            tokens = [*prompt, *hypothesis.tokens]
            number = max(free, key=lambda each: common_prefix(self._beams[each].tokens, tokens, len(tokens)))
            free.remove(number)
            alive[number] = hypothesis
        for number, hypothesis in alive.items():
            sequence = self._beams[number]
            tokens = [*prompt, *hypothesis.tokens]
            rewind(sequence, common_prefix(sequence.tokens, tokens, min(sequence.computed, len(tokens) - 1)))
            sequence.replace(tokens)
        self._alive = alive

    def _text(self, tokens: tuple[int, ...]) -> tuple[str, str | None]:
        detokenizer = Detokenizer(self._tokenizer, self._params.skip_special_tokens, after=self._text_tokens)
        stops = StopScanner(self._params.stop)
        text, stop = stops.push("".join(detokenizer.push(token) for token in tokens if token not in self._end_tokens))
        return (text, stop) if stop is not None else (text + stops.flush(), None)


class BeamWork:
    """The work of one beam: passes its logits to the search."""

    reads: ClassVar[Literal["logits"]] = "logits"

    def __init__(self, search: BeamSearch, number: int) -> None:
        self._search = search
        self._number = number

    def begin(self, sequence: Sequence) -> None:
        self._search.join(sequence)

    def accept(self, sequence: Sequence, position: int, logits: Logits, rewind: Callable[[Sequence, int], Any]) -> bool:
        if position + len(logits) < len(sequence.tokens):
            return False  # it computed the prompt for itself, in the step in which another beam's logits gave it tokens after that
        return self._search.accept(self._number, logits[-1], rewind)

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._search.finish(reason)

    def fail(self, error: LLMasOSError) -> None:
        self._search.fail(error)
