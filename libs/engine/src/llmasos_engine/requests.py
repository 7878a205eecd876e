"""Checks of a request before it is queued."""

from __future__ import annotations

from collections import abc
from typing import Final

from llmasos_engine.ledger import KVLedger
from llmasos_engine.virtual import text_tokens
from llmasos_hookspecs import (
    SOURCE,
    ContextLengthExceeded,
    EngineInfo,
    Request,
    RequestError,
    ResourceError,
    virtual_tokens,
)
from llmasos_hookspecs.nearest import did_you_mean


class RequestChecks:
    """Refuses requests that can never be served, with the reason."""

    def __init__(self, info: EngineInfo, context_length: int, ledger: KVLedger) -> None:
        """``context_length``: of the model, which may be less than the engine's."""
        self._info: Final = info
        self._vocab_size: Final = info.vocab_size
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
        self._media(request)
        if request.adapter and request.adapter not in self._info.adapters:
            known = self._info.adapters
            cure = did_you_mean(request.adapter, known) if known else "; this model was loaded without adapters."
            raise RequestError(f'There is no adapter "{request.adapter}"{cure}', "adapter")
        self._known(text_tokens(request), "The prompt")
        self._room(request, new_tokens)

    def continuations(self, request: Request, continuations: abc.Sequence[abc.Sequence[int]]) -> None:
        """The same checks for the scoring of continuations, none of which may be empty."""
        self.prompt(request)
        if not continuations or not all(len(continuation) for continuation in continuations):
            raise RequestError("There is nothing to score: give at least one continuation, each of at least one token.")
        for continuation in continuations:
            self._known(continuation, "A continuation")
        self._room(request, max(len(continuation) for continuation in continuations))

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

    def _media(self, request: Request) -> None:
        """Media must be of a kind that the engine takes, in order and apart, with their virtual tokens at their places; the source of an
        encoder-decoder begins the prompt, and there is text after the last."""
        features, media = self._info.features, request.media
        kinds = [placed.media.kind for placed in media]
        if "source" in features and kinds[:1] != [SOURCE]:
            raise RequestError(
                "The model is an encoder-decoder, and the request has no source; give the text that the answer is made from."
            )
        if SOURCE in kinds[1 if "source" in features else 0 :]:
            cure = "give one source" if "source" in features else "write the text in the prompt"
            raise RequestError(f"The request has a source that the model does not attend to; {cure}.")
        if (not {"media", "source"} & features and media) or (kinds[1:] and "media" not in features):
            raise RequestError(f"The model takes text alone, and the request has media of the kind {kinds[-1]}; leave that out.")
        at = 0
        for placed in media:
            tokens = virtual_tokens(placed.media, placed.length, self._vocab_size, self._info.preprocessing)
            if placed.start < at or list(request.tokens[placed.start : placed.end]) != tokens:
                raise RequestError(f"The virtual tokens of the {placed.media.kind} at {placed.start} are not those of its content.")
            at = placed.end
        if at == len(request.tokens):
            raise RequestError("The prompt ends with media; give at least one token of text after them.")
        if kinds[:1] == [SOURCE] and (media[0].start or not media[0].whole):
            raise RequestError("The source does not begin the prompt, or may be computed in parts; place it whole, at 0.")

    def _room(self, request: Request, new: int) -> None:
        prompt, length = len(request.tokens), self._context_length
        if request.media and request.media[0].media.kind == SOURCE:
            source = request.media[0].length
            if source > self._info.source_length:
                raise ContextLengthExceeded(
                    f"The source has {source} tokens, and the model reads {self._info.source_length} at most; shorten it."
                )
            # The target's room does not grow where the source is short.
            length = min(length, source + self._info.context_length - self._info.source_length)
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
