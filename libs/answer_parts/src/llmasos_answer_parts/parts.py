"""What an answer is split into."""

from __future__ import annotations

from collections.abc import Iterable

import attrs


@attrs.frozen
class TextPart:
    """Text of the answer."""

    text: str


@attrs.frozen
class ReasoningPart:
    """Text of the reasoning, without its marks."""

    text: str


@attrs.frozen
class CallPart:
    """A piece of a call.

    Attributes:
        index: number of the call in the answer, from 0.
        name: of the function, in the first piece of a call; empty in the others.
        arguments: a piece of the JSON of its arguments.
    """

    index: int
    name: str
    arguments: str


Part = TextPart | ReasoningPart | CallPart


def open_end(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``mark``, and not all of it."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


def joined(parts: Iterable[Part]) -> list[Part]:
    """Parts with those of one kind that follow one another in one."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, CallPart) and isinstance(last, CallPart) and last.index == part.index:
            found[-1] = CallPart(last.index, last.name, last.arguments + part.arguments)
        elif isinstance(part, TextPart) and isinstance(last, TextPart):
            found[-1] = TextPart(last.text + part.text)
        elif isinstance(part, ReasoningPart) and isinstance(last, ReasoningPart):
            found[-1] = ReasoningPart(last.text + part.text)
        else:
            found.append(part)
    return found
