"""The SQLite database: its tables, and how threads and processes share it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from llmasos_hookspecs import ConfigError, LLMasOSError

#: Version of the tables, in ``PRAGMA user_version``.
VERSION: Final = 1

#: Seconds that a writer waits for writers of other processes.
_WAIT: Final = 30.0

# `account` is the key that was created first of those that rotation made of one: usage and quotas go on with it.
_SCHEMA: Final = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    account TEXT NOT NULL,
    label TEXT NOT NULL,
    tenant TEXT NOT NULL,
    role TEXT NOT NULL,
    models TEXT NOT NULL,
    tasks TEXT NOT NULL,
    tools TEXT NOT NULL,
    limits TEXT NOT NULL,
    created REAL NOT NULL,
    expires REAL,
    revoked REAL,
    replaced_by TEXT
);
CREATE TABLE processes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started REAL NOT NULL
);
CREATE TABLE reservations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL,
    process INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    day TEXT NOT NULL,
    bound REAL NOT NULL
);
CREATE INDEX reservations_of_account ON reservations (account);
CREATE INDEX reservations_of_process ON reservations (process);
CREATE TABLE requests (account TEXT NOT NULL, time REAL NOT NULL);
CREATE INDEX requests_of_account ON requests (account, time);
CREATE TABLE usage (
    account TEXT NOT NULL,
    day TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (account, day)
);
CREATE TABLE audit (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL);
"""


class Database:
    """One connection that reads and one that writes, each for one thread at a time, and one for a glance, which waits for nobody.

    The database is in WAL mode: readers do not wait for writers. A kill loses nothing that was committed; a power cut may lose the last
    transactions (``synchronous=NORMAL``), and leaves the database whole.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._glancing = threading.Lock()
        with self._errors():
            self._writer: Final = self._connect()
            self._reader: Final = self._connect()
            self._glancer: Final = self._connect(wait=0.0)
            self._prepare()

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with. Raises ``LLMasOSError`` where the database cannot be used."""
        with self._reading, self._errors():
            yield self._reader

    @contextlib.contextmanager
    def glance(self) -> Iterator[sqlite3.Connection | None]:
        """``read`` for an event loop: it waits for no other thread, None where one glances, and for no other process: ``LLMasOSError`` is
        raised where one has locked the database, as none does in WAL mode but to recover it."""
        if not self._glancing.acquire(blocking=False):
            yield None
            return
        try:
            with self._errors():
                yield self._glancer
        finally:
            self._glancing.release()

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which no other writer of any process runs beside: committed at the end, undone by an exception."""
        with self._writing, self._errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees the database as it is now, for long reading: nobody waits for it."""
        with self._errors(), contextlib.closing(_open(self.path)) as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the first read takes the snapshot
            yield connection

    def _connect(self, wait: float = _WAIT) -> sqlite3.Connection:
        connection = _open(self.path, wait)
        weakref.finalize(self, connection.close)
        return connection

    def _prepare(self) -> None:
        with self.write() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={VERSION}")
            elif version != VERSION:
                raise ConfigError(
                    f"{self.path} is of version {version}, and this package reads version {VERSION}; use the one that wrote it."
                )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LLMasOSError(f"The database of keys {self.path} cannot be used: {error}.") from error


def _open(path: Path, wait: float = _WAIT) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def row_of(connection: sqlite3.Connection, query: str, *values: Any) -> sqlite3.Row | None:
    """The first row of an answer."""
    found: sqlite3.Row | None = connection.execute(query, values).fetchone()
    return found
