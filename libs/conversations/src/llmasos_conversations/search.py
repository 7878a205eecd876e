"""Full-text search over kept messages, in any script."""

from __future__ import annotations

import itertools
import sqlite3
from typing import Final

import attrs

from llmasos_hookspecs import RequestError

#: The index holds three characters at a time; shorter words are looked for in the texts themselves.
_INDEXED: Final = 3
_EVERY: Final = """
    SELECT kept.label, kept.updated, kept.model, m.role, m.content FROM messages m JOIN kept ON kept.id = m.conversation
    ORDER BY kept.updated DESC, m.id
"""
_WITH_INDEX: Final = """
    SELECT kept.label, kept.updated, kept.model, m.role, m.content FROM messages m JOIN kept ON kept.id = m.conversation
    WHERE m.id IN (SELECT rowid FROM found WHERE found MATCH ?)
    ORDER BY kept.updated DESC, m.id
"""
#: Characters of a message that are shown before and after the first word that was found.
_AROUND: Final = 40


@attrs.frozen(kw_only=True)
class FoundMessage:
    """A message that a search found; ``conversation`` is a name or a number, ``excerpt`` one line around the first word."""

    conversation: str
    updated: str
    model: str
    role: str
    excerpt: str


def find_messages(connection: sqlite3.Connection, query: str, limit: int) -> tuple[FoundMessage, ...]:
    """Messages that hold every word of ``query``, whatever its case, those of the conversations used last first.

    Raises:
        RequestError: the query is empty.
    """
    words = query.split()
    if not words:
        raise RequestError("The search is empty; give at least one word.")
    if indexed := [word for word in words if len(word) >= _INDEXED]:
        match = " ".join('"' + word.replace('"', '""') + '"' for word in indexed)
        rows = connection.execute(_WITH_INDEX, (match,))
    else:
        rows = connection.execute(_EVERY)
    short = [word.casefold() for word in words if len(word) < _INDEXED]
    matching = (row for row in rows if not short or all(word in row[4].casefold() for word in short))
    return tuple(
        FoundMessage(conversation=label, updated=updated[:19], model=model, role=role, excerpt=_excerpt(content, words[0]))
        for label, updated, model, role, content in itertools.islice(matching, limit)
    )


def _excerpt(content: str, word: str) -> str:
    text = " ".join(content.split())
    at = max(0, text.casefold().find(word.casefold()))
    start, end = max(0, at - _AROUND), at + len(word) + _AROUND
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
