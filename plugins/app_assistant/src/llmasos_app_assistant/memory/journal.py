"""The journal of a turn: what happened is on disk before what follows from it, so that a turn goes on after a kill.

Its entries, each with a body of plain data:

- ``reply``: what the model said, and its calls;
- ``started``: a call is about to be run;
- ``result``: what a call gave, or why it gave nothing;
- ``answer``: what the turn ends with.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs

from llmasos_app_assistant.memory.database import AssistantDatabase
from llmasos_hookspecs import RequestError

Kind = Literal["reply", "started", "result", "answer"]


@attrs.frozen
class Entry:
    """Something that happened."""

    kind: Kind
    body: Mapping[str, Any]


class Journal(Protocol):
    """Where a turn writes what happens."""

    @property
    def entries(self) -> Sequence[Entry]:
        """What happened so far, before a kill too."""
        ...

    def add(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Write what happens; it is kept when this returns."""
        ...


class MemoryJournal:
    """The journal of a turn whose conversation is not kept."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.entries: list[Entry] = list(entries)

    def add(self, kind: Kind, body: Mapping[str, Any]) -> None:
        self.entries.append(Entry(kind, body))


class KeptJournal:
    """The journal of a turn of a kept conversation.

    Attributes:
        message: that the turn answers.
        messages: how many the conversation held when the turn began.
    """

    def __init__(self, database: AssistantDatabase, turn: int, message: str, messages: int, entries: Sequence[Entry] = ()) -> None:
        self._database = database
        self._turn = turn
        self.message = message
        self.messages = messages
        self.entries: list[Entry] = list(entries)

    def add(self, kind: Kind, body: Mapping[str, Any]) -> None:
        with self._database.use() as connection:
            connection.execute("INSERT INTO entries(turn, kind, body) VALUES (?, ?, ?)", (self._turn, kind, json.dumps(body)))
        self.entries.append(Entry(kind, body))

    def end(self) -> None:
        """The turn is over."""
        with self._database.use() as connection:
            connection.execute("UPDATE turns SET open = 0 WHERE id = ?", (self._turn,))


class Journals:
    """The journals of all conversations."""

    def __init__(self, database: AssistantDatabase) -> None:
        self._database = database

    def begin(self, conversation: int, message: str, messages: int) -> KeptJournal:
        """Begin a turn. Raises ``RequestError`` where an earlier one has not ended."""
        with self._database.use() as connection:
            try:
                turn = connection.execute(
                    "INSERT INTO turns(conversation, message, messages) VALUES (?, ?, ?)", (conversation, message, messages)
                ).lastrowid
            except sqlite3.IntegrityError:
                raise RequestError(
                    "The last turn of this conversation has not ended; go on with it (action continue), or give it up (action discard)."
                ) from None
        assert turn is not None
        return KeptJournal(self._database, turn, message, messages)

    def open(self, conversation: int) -> KeptJournal | None:
        """The turn that has not ended."""
        with self._database.use() as connection:
            found = connection.execute(
                "SELECT id, message, messages FROM turns WHERE conversation = ? AND open", (conversation,)
            ).fetchone()
            if found is None:
                return None
            turn, message, messages = found
            rows = connection.execute("SELECT kind, body FROM entries WHERE turn = ? ORDER BY id", (turn,)).fetchall()
        return KeptJournal(self._database, turn, message, messages, [Entry(kind, json.loads(body)) for kind, body in rows])

    def forget(self, conversation: int) -> None:
        """Remove all that was written of a conversation."""
        with self._database.use() as connection:
            connection.execute("DELETE FROM turns WHERE conversation = ?", (conversation,))
            connection.execute("DELETE FROM summaries WHERE conversation = ?", (conversation,))
