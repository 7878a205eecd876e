"""The work of a sequence that generates text: sampled tokens become text for the caller."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from llmasos_engine.constraint import ConstraintState
from llmasos_engine.detokenizer import Detokenizer
from llmasos_engine.prompt_lookup import DEFAULT_DRAFT, PromptLookup
from llmasos_engine.sampler import SamplingState, log_probability
from llmasos_engine.sequence import Sequence
from llmasos_engine.stops import StopScanner
from llmasos_engine.ticket import Ticket
from llmasos_engine.virtual import text_tokens
from llmasos_hookspecs import Generation, LLMasOSError, Request, Tokenizer, TokenLogprob
from llmasos_hookspecs.tasks import FinishReason


class GenerationWork:
    """Turns sampled tokens into text: detokenises, detects stop strings, counts tokens, and emits pieces to the ticket.

    Args:
        exact_drafts: the engine has the feature ``drafts``: it computes bitwise identical logits for several draft tokens in one row and
            for the same tokens one by one. Requests with ``sampling.copying`` then use prompt lookup, which cannot change their text.
        engine_draws: the engine has the feature ``sampling``: it can sample tokens itself.

    Attributes:
        sampling: the sampler's state of this sequence: parameters, penalties, random stream.
    """

    reads: ClassVar[Literal["tokens"]] = "tokens"

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        ticket: Ticket[Generation],
        constraint: ConstraintState | None = None,
        *,
        exact_drafts: bool = False,
        engine_draws: bool = False,
    ) -> None:
        self.ticket = ticket
        self._prompt = text_tokens(request)
        self.sampling = SamplingState(request.sampling, self._prompt, constraint)
        self._constraint = constraint
        self._params = request.sampling
        self._max_new_tokens = request.max_new_tokens
        self._tokenizer = tokenizer
        self._end_tokens = frozenset() if request.sampling.ignore_eos else tokenizer.eos_token_ids
        self._text_of_next = Detokenizer(tokenizer, request.sampling.skip_special_tokens, after=self._prompt).push
        self._stops = StopScanner(request.sampling.stop)
        self._stop: str | None = None
        self._text: list[str] = []
        self._told: tuple[int, ...] = ()
        drafts = request.sampling.prompt_lookup or (DEFAULT_DRAFT if exact_drafts and request.sampling.copying else 0)
        self._lookup = PromptLookup(drafts) if drafts else None
        self._logprobs: list[TokenLogprob] | None = None if request.sampling.logprobs is None else []
        self._engine_draws = engine_draws and constraint is None and self._logprobs is None

    def begin(self, sequence: Sequence) -> None:
        """Prepare a generation: the whole prompt is computed, and only the logits of its last token are requested."""
        sequence.on_prefill = self.ticket.prefilled
        if self._lookup is not None:
            sequence.drafter = self._draft
        if self._engine_draws:
            sequence.draw = self.sampling.draw

    def drafted(self, drafted: int, right: int) -> None:
        """Record that sampling confirmed the first ``right`` of ``drafted`` draft tokens."""
        if self._lookup is not None:
            self._lookup.checked(drafted, right)

    def push(self, sequence: Sequence, token: int, logits: npt.NDArray[np.float32]) -> FinishReason | None:
        """Append ``token``, which was sampled from ``logits`` [vocab]; these are read for log probabilities only.

        Returns the finish reason where the generation ends with this token, else None.
        """
        self.sampling.accept(token)
        sequence.append(token)
        self._told += (token,)
        if self._logprobs is not None:
            self._logprobs.append(self._logprob(token, logits))
        if token in self._end_tokens:
            return "stop"
        if self._constraint is not None:
            self._constraint.accept(token)
        text = self._text_of_next(token)
        if self._params.stop:
            text, self._stop = self._stops.push(text)
        if text:
            self._emit(text)
        if self._stop is not None or (self._constraint is not None and self._constraint.complete):
            return "stop"
        return "length" if sequence.generated >= self._max_new_tokens else None

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        if self._stop is None and (text := self._stops.flush()):
            self._emit(text)
        self.ticket.finish(
            Generation(
                text="".join(self._text),
                tokens=tuple(sequence.tokens[sequence.prompt_length :]),
                finish_reason=reason,
                prompt_tokens=sequence.prompt_length,
                cached_tokens=sequence.cached,
                logprobs=None if self._logprobs is None else tuple(self._logprobs),
                stop=self._stop,
            )
        )

    def fail(self, error: LLMasOSError) -> None:
        self.ticket.fail(error)

    def _draft(self, sequence: Sequence, most: int) -> tuple[int, ...]:
        most = min(most, self._max_new_tokens - sequence.generated - 1)
        if most <= 0 or self._lookup is None:
            return ()
        forced = () if self._constraint is None else tuple(self._constraint.forced()[:most])
        tokens = [*self._prompt, *sequence.tokens[sequence.prompt_length :]] if sequence.media else sequence.tokens
        return forced or self._lookup.draft(tokens, most)

    def _emit(self, text: str) -> None:
        self._text.append(text)
        told, self._told = self._told, ()
        self.ticket.emit(text, told, () if self._logprobs is None else tuple(self._logprobs[len(self._logprobs) - len(told) :]))

    def _logprob(self, token: int, logits: npt.NDArray[np.float32]) -> TokenLogprob:
        logprob, alternatives = log_probability(logits, token, self._params.logprobs or 0)
        return TokenLogprob(
            token=token,
            text=self._text_of(token),
            logprob=logprob,
            top=tuple((other, self._text_of(other), value) for other, value in alternatives),
        )

    def _text_of(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode(errors="replace")
