"""The audit log: a chain of hashes in the database, whose heads stand in a second file.

Each row has the SHA-256 of its number, its content and the hash of the row before it, so that no row can be changed, removed, added or
moved without breaking the chain at that row. An attacker who rewrites the chain from there on has to rewrite the file of heads as well:
keep a copy of it, or make it append-only (``chattr +a`` on Linux).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from filelock import FileLock

from llmasos_access_keys.database import Database, row_of
from llmasos_access_keys.verification import LATE, START, Finding, Row, hash_of, read_head, verify
from llmasos_hookspecs import AuditEvent, LLMasOSError

#: Bytes at the end of the file of heads that hold its last line.
_TAIL: Final = 256


class AuditLog:
    """Appends events, checks them and shows them. Threads and processes may append at once."""

    def __init__(self, database: Database, heads: Path, lock: Path) -> None:
        self._database = database
        self._heads = heads
        self._threads = threading.Lock()
        self._processes = FileLock(lock, mode=0o600)

    def append(self, event: AuditEvent) -> int:
        """Record an event; its number."""
        content = json.dumps(attrs.asdict(event), default=str, sort_keys=True, separators=(",", ":"))
        with self._threads, self._processes:
            with self._database.write() as connection:
                last = row_of(connection, "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
                number, before = (0, START) if last is None else (last["seq"], last["hash"])
                following = hash_of(number + 1, content, before)
                connection.execute("INSERT INTO audit VALUES (?, ?, ?)", (number + 1, content, following))
            # The row first: a head without a row is proof that a row was removed.
            self._append_heads(number, before, f"{number + 1} {following}\n")
        return number + 1

    def recover(self) -> None:
        """Write the head of the last row where its writer was killed before it could."""
        with self._threads, self._processes:
            with self._database.read() as connection:
                last = row_of(connection, "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
            if last is not None:
                self._append_heads(last["seq"], last["hash"], "")

    def events(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every event with its number, the oldest first. Raises ``LLMasOSError`` where a row is no event."""
        with self._database.snapshot() as connection:
            for row in connection.execute("SELECT seq, body FROM audit ORDER BY seq"):
                try:
                    yield row["seq"], attrs.asdict(AuditEvent(**json.loads(row["body"])))
                except (ValueError, TypeError) as error:
                    raise LLMasOSError(f"Row {row['seq']} of the audit log is no event; run `llmasos audit verify`.") from error

    def verify(self) -> Finding:
        """Check every row, and every line of the file of heads. Writers wait only until the check has begun."""
        with contextlib.ExitStack() as opened:
            with self._threads, self._processes:  # no row is between the database and the file
                connection = opened.enter_context(self._database.snapshot())
                size = self._heads.stat().st_size if self._heads.exists() else 0
            rows = (Row(*row) for row in connection.execute("SELECT seq, body, hash FROM audit ORDER BY seq"))
            return verify(rows, self._lines(size))

    def _lines(self, size: int) -> Iterator[str]:
        """The lines of the first ``size`` bytes of the file of heads."""
        if not size:
            return
        with self._heads.open("rb") as file:
            read = 0
            while read < size and (line := file.readline(min(_TAIL, size - read))):
                read += len(line)
                yield line.decode("utf-8", "replace")

    def _append_heads(self, number: int, head: str, more: str) -> None:
        """Append ``more``, and before it the head of row ``number`` where exactly that one is missing. More missing ones were cut off, and
        stay missing for ``verify`` to tell."""
        descriptor = os.open(self._heads, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            os.lseek(descriptor, max(0, size - _TAIL), os.SEEK_SET)
            tail = os.read(descriptor, _TAIL)
            *_, line = tail.decode("utf-8", "replace").splitlines() or [""]
            present = read_head(line)
            text = f"{number} {head} {LATE}\n" if number and (present.row if present else 0) == number - 1 else ""
            if tail and not tail.endswith(b"\n"):
                text = f"\n{text}"
            if text + more:
                os.write(descriptor, (text + more).encode())
        finally:
            os.close(descriptor)
