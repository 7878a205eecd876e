"""What came of requests, read from the bytes of their answers after the last one has come."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import attrs

from benchmarks.serving.figures import Run
from benchmarks.serving.work import Work

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


def seen_in(began: float, arrivals: Sequence[Arrival]) -> Seen:
    """What the arrivals of one answer of HTTP/1.1 hold: a stream of completions, or a refusal."""
    ended = arrivals[-1][0] if arrivals else began
    raw = b"".join(part for _, part in arrivals)
    head, _, _ = raw.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return Seen(began=began, ended=ended)
    lengths = list(accumulate(len(part) for _, part in arrivals))
    lines = ((arrivals[bisect_left(lengths, end)][0], line) for end, line in _lines(raw, len(head) + 4))
    return seen_in_lines(began, int(head[9:12]), ended, lines)


def seen_in_lines(began: float, status: int, ended: float, lines: Iterable[tuple[float, bytes]]) -> Seen:
    """What an answer's lines hold, each with the time when it was whole."""
    seen = Seen(began=began, status=status, ended=ended)
    if status != 200:
        return seen
    whole = False
    for came, line in lines:
        if line == b"data: [DONE]":
            whole = True
        elif line.startswith(b"data: "):
            chunk = json.loads(line[6:])
            if any(choice.get("text") for choice in chunk.get("choices", ())):
                seen.came.append(came)
            seen.tokens = (chunk.get("usage") or {}).get("completion_tokens", seen.tokens)
    if not whole:
        seen.status = 0
    return seen


def run_of(found: Sequence[Seen], work: Work) -> Run:
    """All of it, from the first request to the last answer, or while the server's slots were taken where the work tells of them."""
    began = found[0].began
    answered = [each for each in found if each.status == 200]
    total = max((each.ended for each in answered), default=began) - began
    seconds, tokens = steady(found, work.slots) if work.slots else (total, sum(each.tokens for each in answered))
    return Run(
        seconds=seconds,
        tokens=tokens,
        first=[each.came[0] - each.began for each in answered if each.came],
        refused=[each.ended - each.began for each in found if each.status == 429],
        failed=sum(each.status not in (200, 429) for each in found),
        total=total,
        answered=sum(each.tokens for each in answered),
        late=[each.began - began - work.due(place) for place, each in enumerate(found)] if work.rate else [],
    )


def steady(found: Sequence[Seen], slots: int) -> tuple[float, int]:
    """Seconds and tokens while as many sequences run as there are slots: from the end of as many answers to that of a multiple of them, the
    last before the last request was sent. Answers of one length that begin together end together, so between are whole rounds of prompts
    and answers, and never a prompt's computation without its tokens. No seconds where there is no such round."""
    last = max(each.began for each in found)
    ended = sorted((each for each in found if each.status == 200 and each.ended <= last), key=lambda each: each.ended)
    rounds = ended[: len(ended) // slots * slots]
    if len(rounds) < 2 * slots:
        return 0.0, 0
    return rounds[-1].ended - rounds[slots - 1].ended, sum(each.tokens for each in rounds[slots:])


def _lines(raw: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a body that was sent in chunks, each with how many bytes there were when it was whole."""
    kept = b""
    while (size_end := raw.find(b"\r\n", start)) >= 0 and (size := int(raw[start:size_end], 16)):
        end = size_end + 2 + size
        *lines, kept = (kept + raw[size_end + 2 : end]).split(b"\n")
        yield from ((min(end, len(raw)), line) for line in lines)
        start = end + 2
