"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def cell(text: str, *, code: bool = False) -> str:
    """A text as it may stand in a cell of a table."""
    escaped = " ".join(text.split()).replace("|", "\\|")
    if code:
        return f"`{escaped}`"
    return escaped.replace("<", "&lt;").replace("*", "\\*")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; empty where it has no rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
