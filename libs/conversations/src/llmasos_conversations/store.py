"""Conversations by name or number, kept turn by turn."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Self

import attrs

from llmasos_conversations.database import Database
from llmasos_conversations.images import digests_of, keep_images, text_and_images, with_images
from llmasos_conversations.search import FoundMessage, find_messages
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.nearest import did_you_mean

#: A message of a chat: ``role`` and ``content``; of a kept one with images, also ``images``, their SHA-256. One that is to be kept may have
#: a list of parts as its content: texts, and images as the bytes of their files.
Message = dict[str, Any]

#: Turns of a chat, or a plain text and its continuation.
Form = Literal["chat", "text"]

# Letters of any script; nothing that a file system reads as a path, a hidden file or a device: a name may become a file's.
_NAME: Final = re.compile(r"[\w][\w .\-]{0,99}(?<![ .])", re.UNICODE)

#: Characters of a first message that a list shows.
_FIRST: Final = 80


@attrs.frozen(kw_only=True)
class Conversation:
    """One dialogue. ``messages`` are those of user and assistant, ``numbers`` what ``take_back`` takes for each; times are ISO 8601 in UTC;
    ``number`` is 0 where it is not kept."""

    number: int = 0
    name: str = ""
    form: Form = "chat"
    model: str = ""
    system: str = ""
    created: str = ""
    updated: str = ""
    messages: tuple[Message, ...] = ()
    numbers: tuple[int, ...] = attrs.field(default=(), eq=False)

    @property
    def label(self) -> str:
        """What a user calls it by: its name, else its number."""
        return self.name or str(self.number)

    def instructions(self) -> list[Message]:
        """The system message, where there is one."""
        return [{"role": "system", "content": self.system}] if self.system else []


@attrs.frozen(kw_only=True)
class ConversationSummary:
    """A kept conversation as a list shows it; ``name`` is its number where it has none."""

    name: str
    turns: int
    updated: str
    first: str
    model: str = ""


class ConversationStore:
    """Kept conversations in one SQLite file of a folder, safe to share between threads and processes.

    Every method raises ``LLMasOSError`` where the file is damaged or cannot be written, and then leaves it as it was.
    """

    def __init__(self, folder: Path) -> None:
        self._database = Database(folder)

    @classmethod
    def chosen(cls, option: str = "", kind: str = "conversations") -> Self:
        """The store in the folder that an option names; empty: the user's own for that kind of conversation."""
        return cls(Path(option).expanduser() if option else default_folder().with_name(kind))

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self._database.path

    # Reading

    def names(self) -> tuple[str, ...]:
        """Names of the conversations that have one, in order."""
        with self._database.reading() as connection:
            return tuple(name for (name,) in connection.execute("SELECT name FROM conversations WHERE name IS NOT NULL ORDER BY name"))

    def summaries(self, limit: int | None = None) -> tuple[ConversationSummary, ...]:
        """The conversations used last, the newest first, ``limit`` at most."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT id, label, updated, model FROM kept ORDER BY updated DESC, id DESC LIMIT ?", (-1 if limit is None else limit,)
            ).fetchall()
            return tuple(_summary(connection, *row) for row in rows)

    def has(self, name: str) -> bool:
        """Whether a conversation called ``name`` is kept. Raises ``RequestError`` where that cannot be a name."""
        _check_name(name)
        return name in self.names()

    def load(self, name: str) -> Conversation:
        """The conversation called ``name``, or an empty one where none is kept. Raises ``RequestError`` where that cannot be a name."""
        _check_name(name)
        return self._find(name) or Conversation(name=name)

    def find(self, label: str) -> Conversation:
        """The conversation that a user means: by its name, else by its number. Raises ``RequestError`` where there is none."""
        found = self._find(label)
        if found is None:
            _check_name(label)
            raise RequestError(f'There is no conversation "{label}"{did_you_mean(label, self.names())}')
        return found

    def last(self, form: Form | None = None) -> Conversation | None:
        """The conversation used last, of a form or of any."""
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT * FROM kept WHERE form = coalesce(?, form) ORDER BY updated DESC, id DESC LIMIT 1",
                (form,),
            ).fetchone()
            return None if found is None else _conversation(connection, found)

    def search(self, query: str, limit: int = 20) -> tuple[FoundMessage, ...]:
        """Messages that hold every word of ``query``, those of the conversations used last first."""
        with self._database.reading() as connection:
            return find_messages(connection, query, limit)

    def asked(self, messages: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Kept messages as a model is asked them: with the files of their images in parts of their content.

        Raises ``RequestError`` where one was removed meanwhile."""
        kept = list(messages)
        if not any("images" in each for each in kept):
            return [dict(each) for each in kept]
        with self._database.reading() as connection:
            return with_images(connection, kept)

    # Writing

    def add(
        self,
        conversation: int | None,
        messages: Iterable[Message],
        *,
        name: str = "",
        system: str | None = None,
        model: str = "",
        form: Form = "chat",
    ) -> tuple[int, list[int]]:
        """Add messages to the conversation of a number, or with None to a new one.

        What other processes added meanwhile is kept. A conversation that was removed meanwhile is begun anew.

        Args:
            name: what to call a new one; empty: nothing, it has its number.
            system: the system message; None: as it was.
            model: the model that answered; empty: as it was.
            form: of a new one.

        Returns:
            The number of the conversation, and a number for each message, with which ``take_back`` removes it.
        """
        if name:
            _check_name(name)
        with self._database.writing() as connection:
            return _add(connection, conversation, messages, name=name, system=system, model=model, form=form)

    def append(self, name: str, messages: Iterable[Message], *, system: str = "", model: str = "") -> Conversation:
        """Add messages to the conversation of a name, which is made where there is none; returns the whole."""
        _check_name(name)
        with self._database.writing() as connection:
            found = connection.execute("SELECT id FROM conversations WHERE name = ?", (name,)).fetchone()
            _add(connection, None if found is None else found[0], messages, name=name, system=system or None, model=model, form="chat")
        return self.load(name)

    def rename(self, conversation: int, name: str) -> None:
        """Give the conversation of a number a name. Raises ``RequestError`` where another one has it, or it cannot be one."""
        _check_name(name)
        with self._database.writing() as connection:
            try:
                connection.execute("UPDATE conversations SET name = ? WHERE id = ?", (name, conversation))
            except sqlite3.IntegrityError:
                raise RequestError(f'There is a conversation "{name}" already; take another name, or go on with that one.') from None

    def take_back(self, messages: Sequence[int]) -> None:
        """Remove messages by the numbers that ``add`` gave."""
        with self._database.writing() as connection:
            connection.executemany("DELETE FROM messages WHERE id = ?", [(each,) for each in messages])

    def delete(self, label: str) -> None:
        """Remove a conversation by name or number. Raises ``RequestError`` where there is none."""
        found = self.find(label)
        with self._database.writing() as connection:
            connection.execute("DELETE FROM conversations WHERE id = ?", (found.number,))
        self._database.compact()

    def clear(self, *, before: datetime | None = None, named: bool = False) -> int:
        """Remove conversations: those last used before a time, or all; those with a name stay unless ``named``. Returns how many went."""
        if self._database.empty:
            return 0
        with self._database.writing() as connection:
            gone = connection.execute(
                "DELETE FROM conversations WHERE coalesce(updated < ?, 1) AND (? OR name IS NULL)",
                (None if before is None else _stamp(before), named),
            ).rowcount
        self._database.compact()
        return gone

    # Whether conversations that nobody named are kept

    @property
    def keeps_all(self) -> bool:
        """Whether conversations without a name are kept: yes, until ``keep_all(False)``."""
        with self._database.reading() as connection:
            said = connection.execute("SELECT value FROM settings WHERE name = 'keeps_all'").fetchone()
            return bool(said != ("no",))

    def keep_all(self, on: bool) -> None:
        """Say whether conversations without a name are kept from now on."""
        with self._database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO settings VALUES ('keeps_all', ?)", ("yes" if on else "no",))

    def _find(self, label: str) -> Conversation | None:
        with self._database.reading() as connection:
            found = connection.execute("SELECT * FROM kept WHERE name = ?", (label,)).fetchone()
            if found is None and label.isascii() and label.isdigit() and len(label) < 19:
                found = connection.execute("SELECT * FROM kept WHERE id = ?", (int(label),)).fetchone()
            return None if found is None else _conversation(connection, found)


def _add(
    connection: sqlite3.Connection,
    conversation: int | None,
    messages: Iterable[Message],
    *,
    name: str,
    system: str | None,
    model: str,
    form: Form,
) -> tuple[int, list[int]]:
    now = _stamp(datetime.now(UTC))
    changed = connection.execute(
        "UPDATE conversations SET updated = ?, system = coalesce(?, system), model = CASE ? WHEN '' THEN model ELSE ? END WHERE id = ?",
        (now, system, model, model, conversation),
    ).rowcount
    if not changed:
        conversation = connection.execute(
            "INSERT INTO conversations(name, form, model, system, created, updated) VALUES (?, ?, ?, ?, ?, ?)",
            (name or None, form, model, system or "", now, now),
        ).lastrowid
    assert conversation is not None
    numbers = []
    for each in messages:
        text, images = text_and_images(each["content"])
        added = connection.execute(
            "INSERT INTO messages(conversation, role, content) VALUES (?, ?, ?)", (conversation, each["role"], text)
        ).lastrowid
        assert added is not None
        keep_images(connection, added, images)
        numbers.append(added)
    return conversation, numbers


def _conversation(connection: sqlite3.Connection, row: tuple[int, str, Form, str, str, str, str, str]) -> Conversation:
    number, name, form, model, system, created, updated, _ = row
    rows = connection.execute("SELECT id, role, content FROM messages WHERE conversation = ? ORDER BY id", (number,)).fetchall()
    images = digests_of(connection, number)
    return Conversation(
        number=number,
        name=name,
        form=form,
        model=model,
        system=system,
        created=created,
        updated=updated,
        messages=tuple({"role": role, "content": content} | _pictured(images.get(each)) for each, role, content in rows),
        numbers=tuple(each for each, _, _ in rows),
    )


def _pictured(digests: list[str] | None) -> Message:
    return {"images": digests} if digests else {}


def _summary(connection: sqlite3.Connection, number: int, label: str, updated: str, model: str) -> ConversationSummary:
    turns = connection.execute("SELECT count(*) FROM messages WHERE conversation = ? AND role = 'assistant'", (number,)).fetchone()[0]
    first = connection.execute(
        "SELECT substr(content, 1, ?) FROM messages WHERE conversation = ? ORDER BY id LIMIT 1", (_FIRST, number)
    ).fetchone()
    return ConversationSummary(name=label, turns=turns, updated=updated[:19], first=first[0] if first else "", model=model)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name.encode()) > 200:
        raise RequestError(
            f'"{name}" cannot name a conversation; take 1 to 100 letters, digits, spaces, dots, hyphens or underscores, '
            "beginning with a letter or digit."
        )


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds")


def default_folder() -> Path:
    """Where conversations are kept unless an option says otherwise: with the user's data."""
    home = os.environ.get("LLMASOS_HOME")
    if home:
        return Path(home).expanduser().absolute() / "data" / "conversations"
    from platformdirs import user_data_path

    return user_data_path("llmasos", appauthor=False) / "conversations"
