"""What a client has left of its limits, in OpenAI's headers (https://platform.openai.com/docs/guides/rate-limits)."""

from __future__ import annotations

import math

from llmasos_hookspecs import Quota, Remaining


def limit_headers(left: Remaining) -> list[tuple[str, str]]:
    """The headers of an answer."""
    return [*_headers("requests", left.requests), *_headers("tokens", left.tokens)]


def _headers(what: str, quota: Quota | None) -> list[tuple[str, str]]:
    if quota is None:
        return []
    return [
        (f"x-ratelimit-limit-{what}", str(quota.limit)),
        (f"x-ratelimit-remaining-{what}", str(quota.left)),
        (f"x-ratelimit-reset-{what}", _span(quota.renewed)),
    ]


def _span(seconds: float) -> str:
    """A span of time as OpenAI writes it: ``6m0s``, ``1s``, ``20ms``."""
    if seconds < 1.0:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"
