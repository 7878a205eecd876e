"""Cuts a text into segments while it comes, in the same places however it is cut into pieces."""

from __future__ import annotations

import re
from typing import Final

#: The end of a sentence: a mark that ends one by itself, or one behind which a space follows.
_END: Final = re.compile(r"[。！？；\n]|[.!?;:…](?=\s)")
#: All up to the last space, which is not the first character.
_UP_TO_SPACE: Final = re.compile(r".+\s", re.DOTALL)


def segment_end(text: str, window: int, *, last: bool = False) -> int | None:
    """Where the first segment of ``text`` ends; None where that is not known before more has come.

    A segment ends behind the first sentence, or, where none ends within ``window`` characters, behind the last space among them, or after
    all of them. It depends on the first ``window`` characters alone. ``last``: no more will come.
    """
    if found := _END.search(text, 0, window):
        return found.end()
    if len(text) >= window:
        found = _UP_TO_SPACE.match(text, 0, window)
        return found.end() if found else window
    return len(text) if last and text else None
