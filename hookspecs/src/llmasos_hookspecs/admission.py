"""Admission control that scheduling policies share: limits on the length of a queue."""

from __future__ import annotations

import attrs

from llmasos_hookspecs.scheduling import Admit, Reject, Request, Stats

#: ``retry_after`` in seconds while nothing has been measured yet.
_UNMEASURED = 1.0


def expected_seconds(prompt_tokens: float, new_tokens: float, stats: Stats) -> float | None:
    """Seconds that a model takes for so many tokens at its measured rates; None before the first measurement."""
    if not stats.prefill_rate and not stats.decode_rate:
        return None
    prefill = stats.prefill_rate or stats.decode_rate
    decode = stats.decode_rate or stats.prefill_rate
    return prompt_tokens / prefill + new_tokens / decode


@attrs.frozen(kw_only=True)
class QueueBounds:
    """Limits of a queue, as the base of a scheduler's ``Options``.

    The policy asks ``check`` in ``admit``. Core asks it too, before it encodes a prompt, with as few tokens as the prompt can have.

    Attributes:
        max_sequences: sequences that hold a slot at once.
        step_tokens: tokens that one step computes at most.
        max_queue: requests that may wait; 0: any number.
        max_queue_tokens: tokens yet to compute of all waiting requests; 0: any number. A single request may have more.
        max_wait: seconds of queued work before a request, by the measured rates, if all requests generate ``max_new_tokens``; 0: any.
    """

    max_sequences: int = attrs.field(default=8, validator=attrs.validators.ge(1), metadata={"help": "Sequences that hold a slot at once."})
    step_tokens: int = attrs.field(
        default=512, validator=attrs.validators.ge(1), metadata={"help": "Tokens that one step computes at most."}
    )
    max_queue: int = attrs.field(
        default=10_000, validator=attrs.validators.ge(0), metadata={"help": "Requests that may wait; 0: any number."}
    )
    max_queue_tokens: int = attrs.field(
        default=0, validator=attrs.validators.ge(0), metadata={"help": "Tokens of all requests that wait; 0: any number."}
    )
    max_wait: float = attrs.field(
        default=0.0, validator=attrs.validators.ge(0), metadata={"help": "Expected seconds of waiting that are accepted; 0: any."}
    )

    def check(self, request: Request, stats: Stats) -> Admit | Reject:
        """Whether the queue accepts ``request``. ``retry_after`` is the expected time until the excess work is done."""
        if self.max_queue and stats.waiting >= self.max_queue:
            excess = (stats.waiting - self.max_queue + 1) * stats.waiting_tokens / stats.waiting
            return Reject(f"{stats.waiting} requests wait, and max_queue is {self.max_queue}", _seconds(excess, stats))
        size = len(request.tokens) + request.max_new_tokens
        if self.max_queue_tokens and stats.waiting and stats.waiting_tokens + size > self.max_queue_tokens:
            excess = stats.waiting_tokens + size - self.max_queue_tokens
            return Reject(
                f"{stats.waiting_tokens} tokens wait, {size} more would come, and max_queue_tokens is {self.max_queue_tokens}",
                _seconds(min(excess, stats.waiting_tokens), stats),
            )
        if self.max_wait:
            prompts = min(stats.waiting_prompt_tokens, stats.waiting_tokens)
            wait = expected_seconds(prompts, stats.waiting_tokens - prompts, stats)
            if wait is not None and wait > self.max_wait:
                return Reject(f"the wait would be about {wait:.3g} seconds, and max_wait is {self.max_wait:g}", wait - self.max_wait)
        return Admit()


def _seconds(tokens: float, stats: Stats) -> float:
    """Seconds to compute so many waiting tokens, with the present ratio of prompt tokens to new tokens."""
    share = min(1.0, stats.waiting_prompt_tokens / stats.waiting_tokens) if stats.waiting_tokens else 0.0
    seconds = expected_seconds(tokens * share, tokens * (1 - share), stats)
    return _UNMEASURED if seconds is None else seconds
