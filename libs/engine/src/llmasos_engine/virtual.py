"""Virtual tokens among those of a prompt: what reads token ids as text leaves them out."""

from __future__ import annotations

from collections.abc import Sequence

from llmasos_hookspecs import Request


def text_tokens(request: Request) -> Sequence[int]:
    """The prompt's tokens without those of media; for an encoder-decoder, those of the target."""
    if not request.media:
        return request.tokens
    kept: list[int] = []
    at = 0
    for placed in request.media:
        kept += request.tokens[at : placed.start]
        at = placed.end
    return [*kept, *request.tokens[at:]]
