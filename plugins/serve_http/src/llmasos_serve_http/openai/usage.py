"""What an answer used and why it ended, in OpenAI's words."""

from __future__ import annotations

from typing import Any, Final

from llmasos_hookspecs import FinishEvent, UsageEvent

#: Reasons of the runtime -> OpenAI's. An answer that was cancelled is an error, and has none.
_REASONS: Final = {"stop": "stop", "length": "length", "blocked": "content_filter"}


def usage_of(usage: UsageEvent) -> dict[str, Any]:
    """The field ``usage``."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.generated_tokens,
        "total_tokens": usage.prompt_tokens + usage.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def reason_of(finish: FinishEvent, *, called: bool = False) -> str:
    """The field ``finish_reason``; ``called``: the answer calls tools."""
    return "tool_calls" if called and finish.reason == "stop" else _REASONS[finish.reason]
