"""What came of a request, read from the bytes of its answer after the last one has come."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

import attrs

#: When bytes came, and the bytes.
Arrival = tuple[float, bytes]


@attrs.define
class Seen:
    """What came of one request.

    Attributes:
        began: when it was sent.
        status: of HTTP; 0 where the answer ended without its end.
        came: when each piece of text was there, in order.
    """

    began: float = 0.0
    status: int = 0
    ended: float = 0.0
    tokens: int = 0
    came: list[float] = attrs.field(factory=list)

    def tokens_between(self, start: float, end: float) -> float:
        """Its tokens that came in that time; each piece has as many."""
        return self.tokens * sum(start <= moment < end for moment in self.came) / max(1, len(self.came))


def seen_in(began: float, arrivals: Sequence[Arrival]) -> Seen:
    """What the arrivals of one answer of HTTP/1.1 hold: a stream of completions, or a refusal."""
    seen = Seen(began=began, ended=arrivals[-1][0] if arrivals else began)
    raw = b"".join(part for _, part in arrivals)
    head, _, _ = raw.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return seen
    seen.status = int(head[9:12])
    if seen.status != 200:
        return seen
    whole = False
    lengths = list(accumulate(len(part) for _, part in arrivals))
    for end, line in _lines(raw, len(head) + 4):
        if line == b"data: [DONE]":
            whole = True
        elif line.startswith(b"data: "):
            chunk = json.loads(line[6:])
            if any(choice.get("text") for choice in chunk.get("choices", ())):
                seen.came.append(arrivals[bisect_left(lengths, end)][0])
            seen.tokens = (chunk.get("usage") or {}).get("completion_tokens", seen.tokens)
    if not whole:
        seen.status = 0
    return seen


def _lines(raw: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a body that was sent in chunks, each with how many bytes there were when it was whole."""
    kept = b""
    while (size_end := raw.find(b"\r\n", start)) >= 0 and (size := int(raw[start:size_end], 16)):
        end = size_end + 2 + size
        *lines, kept = (kept + raw[size_end + 2 : end]).split(b"\n")
        yield from ((min(end, len(raw)), line) for line in lines)
        start = end + 2
