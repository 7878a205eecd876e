"""The SQLite file: its tables, who may read it, and its errors in one sentence."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from llmasos_conversations.images import TABLES as IMAGES
from llmasos_conversations.taking_over import old_files, take_over
from llmasos_hookspecs import LLMasOSError

#: Seconds that a process waits for another one's turn to be written.
_PATIENCE: Final = 30.0

#: Raised with every change of the tables; a file of a later version is refused.
_VERSION: Final = 2

# Three characters at a time are indexed, so that a word is found in any script, spaces between words or none.
_TABLES: Final = """
CREATE TABLE conversations(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE,
    form TEXT NOT NULL,
    model TEXT NOT NULL,
    system TEXT NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL
);
CREATE TABLE messages(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
    role TEXT NOT NULL,
    content TEXT NOT NULL
);
CREATE VIEW kept AS
    SELECT id, coalesce(name, '') AS name, form, model, system, created, updated, coalesce(name, CAST(id AS TEXT)) AS label
    FROM conversations;
CREATE INDEX messages_of ON messages(conversation, id);
CREATE TABLE settings(name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE VIRTUAL TABLE found USING fts5(content, content='messages', content_rowid='id', tokenize='trigram');
CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
    INSERT INTO found(rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER message_removed AFTER DELETE ON messages BEGIN
    INSERT INTO found(found, rowid, content) VALUES ('delete', old.id, old.content);
END;
"""


@attrs.frozen
class Database:
    """``conversations.db`` in a folder. It is opened for each use, so that threads and processes share it without more."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "conversations.db"

    @property
    def empty(self) -> bool:
        """Whether nothing was ever kept here. Raises ``LLMasOSError`` where the folder cannot be looked at."""
        with self._faults():
            return not self.path.exists() and not old_files(self.folder)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the file; of empty tables in memory where nothing was ever kept, so that no file is made.

        Raises:
            LLMasOSError: the file is damaged or cannot be read; what the block does to it included.
        """
        with self._faults(), contextlib.closing(_nothing() if self.empty else self._open()) as connection:
            connection.execute("BEGIN")
            yield connection
            connection.rollback()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection that no other writer comes between; what the block did is kept whole, or not at all where it raises.

        Raises:
            LLMasOSError: the file is damaged or cannot be written.
        """
        with self._faults(), contextlib.closing(self._open()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.commit()
            except BaseException:
                connection.rollback()
                raise

    def compact(self) -> None:
        """Give the room of what was removed back to the disk, and leave no text of it in the file."""
        with self._faults(), contextlib.closing(self._open()) as connection:
            connection.execute("INSERT INTO found(found) VALUES ('rebuild')")
            connection.execute("VACUUM")

    def _open(self) -> sqlite3.Connection:
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # SQLite itself would make a file that everybody can read
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")
            if _version(connection) != _VERSION:
                self._make(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make(self, connection: sqlite3.Connection) -> None:
        done: list[Path] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            found = self._found_version(connection)
            if found < _VERSION:  # else another process has made them a moment ago
                _make_tables(connection, IMAGES if found else _TABLES + IMAGES)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                done = [] if found else take_over(self.folder, connection)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        for file in done:
            file.unlink(missing_ok=True)

    def _found_version(self, connection: sqlite3.Connection) -> int:
        found = _version(connection)
        if found > _VERSION:
            raise LLMasOSError(f"{self.path} was written by a later version of LLMasOS; update llmasos-conversations to read it.")
        return found

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise LLMasOSError(
                f"The conversations in {self.path} cannot be read or written ({reason}); make room for them, mend the file's permissions, "
                "or move a damaged file away to start a new one."
            ) from error


def _nothing() -> sqlite3.Connection:
    """Empty tables in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        _make_tables(connection, _TABLES + IMAGES)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_tables(connection: sqlite3.Connection, script: str) -> None:
    for statement in _statements(script):
        connection.execute(statement)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: ``executescript`` would commit before it begins."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
