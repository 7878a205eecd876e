"""Checks of a request before it is queued."""

from __future__ import annotations

from collections import abc
from typing import Final

from llmasos.engine.ledger import KVLedger
from llmasos_hookspecs import ContextLengthExceeded, Request, RequestError, ResourceError


class RequestChecks:
    """Refuses requests that can never be served, with the reason."""

    def __init__(self, vocab_size: int, context_length: int, ledger: KVLedger) -> None:
        self._vocab_size: Final = vocab_size
        self._context_length: Final = context_length
        self._ledger: Final = ledger

    def generation(self, request: Request) -> None:
        """Raises what ``prompt`` raises, and the same where the new tokens asked for do not fit."""
        if request.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens is {request.max_new_tokens}, and it must be a whole number of at least 1.")
        self.prompt(request, request.max_new_tokens)
        self._known(tuple(request.sampling.logit_bias), "logit_bias")

    def prompt(self, request: Request, new_tokens: int = 0) -> None:
        """Raises ``RequestError`` for an empty prompt or unknown tokens, ``ContextLengthExceeded`` where the context cannot hold it, and
        ``ResourceError`` where the KV cache cannot."""
        if not len(request.tokens):
            raise RequestError("The prompt is empty; give at least one token to continue from.")
        self._known(request.tokens, "The prompt")
        self._room(len(request.tokens), new_tokens)

    def continuations(self, request: Request, continuations: abc.Sequence[abc.Sequence[int]]) -> None:
        """The same checks for the scoring of continuations, none of which may be empty."""
        self.prompt(request)
        if not continuations or not all(len(continuation) for continuation in continuations):
            raise RequestError("There is nothing to score: give at least one continuation, each of at least one token.")
        for continuation in continuations:
            self._known(continuation, "A continuation")
        self._room(len(request.tokens), max(len(continuation) for continuation in continuations))

    def beams(self, request: Request, slots: int) -> None:
        """Refuses what beam search cannot do, and more beams than there are slots or room for at once."""
        sampling = request.sampling
        width = sampling.num_beams
        if sampling.temperature > 0 or sampling.constraint is not None or sampling.logprobs is not None:
            raise RequestError(
                "Beam search draws nothing and follows no constraint; leave out temperature, logprobs and constraints, or num_beams."
            )
        if width > slots:
            raise RequestError(
                f"num_beams is {width}, and {slots} sequences can run at once; ask for fewer or raise scheduler.max_sequences."
            )
        need = width * (len(request.tokens) + request.max_new_tokens)
        if need > self._ledger.capacity:
            raise ResourceError(
                f"{width} beams need room for {need} tokens, and the KV cache holds {self._ledger.capacity}; ask for fewer beams or "
                f"tokens, or raise resources.memory."
            )

    def _known(self, tokens: abc.Sequence[int], what: str) -> None:
        if not len(tokens):
            return
        low, high = min(tokens), max(tokens)
        if low < 0 or high >= self._vocab_size:
            wrong = low if low < 0 else high
            raise RequestError(f"{what} holds the token {wrong}, and the vocabulary ends at {self._vocab_size - 1}.")

    def _room(self, prompt: int, new: int) -> None:
        length = self._context_length
        if prompt > length or (new and prompt + 1 > length):
            raise ContextLengthExceeded(f"The prompt has {prompt} tokens, and the model's context holds {length}; shorten the prompt.")
        if prompt + new > length:
            raise ContextLengthExceeded(
                f"The prompt has {prompt} tokens and {new} new ones were asked for, and the model's context holds {length}; ask for "
                f"{length - prompt} at most."
            )
        if prompt + new > self._ledger.capacity:
            raise ResourceError(
                f"The request needs room for {prompt + new} tokens, and the KV cache holds {self._ledger.capacity}; raise "
                f"resources.memory or ask for fewer."
            )
