"""What the user may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that is most like ``word``; None where nothing is alike."""
    import difflib

    lowered = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The clause ``; did you mean "x"?`` to end a sentence with, or a full stop."""
    found = nearest(word, known)
    return f'; did you mean "{found}"?' if found else "."


def listed(names: Iterable[str]) -> str:
    """Names in a sentence: ``a, b, c``, or ``none``; a long list is cut."""
    known = list(names)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return ", ".join(known[:20]) + more or "none"
