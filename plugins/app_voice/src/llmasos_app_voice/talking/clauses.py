"""Cuts a text into clauses while it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

#: A clause ends at such a sign with a blank after it, so that 3.14 and 1,000 stay whole, or at a Chinese sign.
_END: Final = re.compile(r"[.!?;:,…][\"')\]”’]*(?=\s)|[。！？；：，、…]|\n")
#: What is shorter waits for the next sign: "Well," and "1." sound torn off.
_SHORTEST: Final = 12
#: Where no sign comes, a blank will do.
_LONGEST: Final = 200


def clauses(pieces: Iterable[str]) -> Iterator[str]:
    """The clauses of a text as soon as they are whole; joined they are the text."""
    text = ""
    for piece in pieces:
        text += piece
        while (end := _first_end(text)) is not None:
            yield text[:end]
            text = text[end:]
    if text:
        yield text


def _first_end(text: str) -> int | None:
    for found in _END.finditer(text):
        if len(text[: found.end()].strip()) >= _SHORTEST or (text[found.start()] in "。！？" and found.start()):
            return found.end()
    if len(text) > _LONGEST:
        blank = text.rfind(" ", 1, _LONGEST)
        return blank if blank > 0 else _LONGEST
    return None
