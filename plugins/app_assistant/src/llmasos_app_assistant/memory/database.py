"""The assistant's own SQLite file, beside that of the conversations."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from llmasos_hookspecs import LLMasOSError

#: Seconds that a process waits for another one's turn to be written.
_PATIENCE: Final = 30.0
#: Raised with every change of the tables; a file of a later version is refused.
_VERSION: Final = 1

# ``messages``: how many the conversation held when the turn began. An open turn is the only one of its conversation.
_TABLES: Final = """
CREATE TABLE turns(
    id INTEGER PRIMARY KEY AUTOINCREMENT, conversation INTEGER NOT NULL, message TEXT NOT NULL, messages INTEGER NOT NULL,
    open INTEGER NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX one_open_turn ON turns(conversation) WHERE open;
CREATE TABLE entries(
    id INTEGER PRIMARY KEY AUTOINCREMENT, turn INTEGER NOT NULL REFERENCES turns ON DELETE CASCADE, kind TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX entries_of ON entries(turn, id);
CREATE TABLE summaries(conversation INTEGER PRIMARY KEY, message INTEGER NOT NULL, text TEXT NOT NULL);
CREATE TABLE vectors(model TEXT NOT NULL, digest BLOB NOT NULL, vector BLOB NOT NULL, PRIMARY KEY(model, digest)) WITHOUT ROWID;
"""


@attrs.frozen
class AssistantDatabase:
    """``assistant.db`` in a folder. It is opened for each use, so that threads and processes share it."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "assistant.db"

    @contextlib.contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """A connection that no other writer comes between; what the block did is on disk at its end, or not at all where it raises.

        Raises:
            LLMasOSError: the file is damaged, or cannot be written.
        """
        try:
            with contextlib.closing(self._open()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    self._make(connection)
                    yield connection
                    connection.commit()
                except BaseException:
                    connection.rollback()
                    raise
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise LLMasOSError(
                f"The assistant's memory in {self.path} cannot be read or written ({reason}); make room for it, mend the file's "
                "permissions, or move a damaged file away to start a new one."
            ) from error

    def _open(self) -> sqlite3.Connection:
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # SQLite itself would make a file that everybody can read
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        return connection

    def _make(self, connection: sqlite3.Connection) -> None:
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found > _VERSION:
            raise LLMasOSError(f"{self.path} was written by a later version; update llmasos-app-assistant to read it.")
        if not found:
            for statement in filter(str.strip, _TABLES.split(";\n")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
