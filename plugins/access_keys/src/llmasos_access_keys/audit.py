"""The audit log: a chain of hashes in the database, whose heads stand in a second file.

Each row has the SHA-256 of its number, its content and the hash of the row before it, so that no row can be changed, removed, added or
moved without breaking the chain at that row. An attacker who rewrites the chain from there on has to rewrite the file of heads as well:
keep a copy of it, or make it append-only (``chattr +a`` on Linux).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from filelock import FileLock

from llmasos_access_keys.database import Database, row_of
from llmasos_hookspecs import AuditEvent, LLMasOSError

#: The hash before the first row.
_START: Final = "0" * 64

#: Bytes at the end of the file of heads that hold its last line.
_TAIL: Final = 256

#: Marks the head of a row whose writer ended between the row and its head.
_LATE: Final = "late"

#: Problems that are told at most: one row that is gone can make thousands.
_MOST: Final = 20


@attrs.frozen
class Finding:
    """What a check of the log found.

    Attributes:
        rows: that were checked.
        problems: a sentence for each, with the number of the row or of the line; empty: the log is as it was written.
        late: rows whose head was written later, by the next writer: their own was killed in between.
    """

    rows: int
    problems: list[str]
    late: list[int]


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
                number, before = (0, _START) if last is None else (last["seq"], last["hash"])
                following = _hash(number + 1, content, before)
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
        with self._database.read() as connection:
            rows = connection.execute("SELECT seq, body FROM audit ORDER BY seq").fetchall()
        for row in rows:
            try:
                yield row["seq"], attrs.asdict(AuditEvent(**json.loads(row["body"])))
            except (ValueError, TypeError) as error:
                raise LLMasOSError(f"Row {row['seq']} of the audit log is no event; run `llmasos audit verify`.") from error

    def verify(self) -> Finding:
        """Check every row, and every line of the file of heads."""
        with self._threads, self._processes:  # no row is between the database and the file
            with self._database.read() as connection:
                rows = connection.execute("SELECT seq, body, hash FROM audit ORDER BY seq").fetchall()
            lines = self._heads.read_text(encoding="utf-8", errors="replace").splitlines() if self._heads.exists() else []
        problems: list[str] = []
        expected, before = 1, _START
        for row in rows:
            number = row["seq"]
            if number > expected:
                problems.append(f"{_rows(expected, number - 1)} missing.")
            elif row["hash"] != _hash(number, row["body"], before):
                problems.append(f"Row {number} is not what was written: it was changed, moved or added, or the row before it was.")
            expected, before = max(expected, number) + 1, row["hash"]
        late = self._verify_heads({row["seq"]: row["hash"] for row in rows}, lines, problems)
        left = len(problems) - _MOST
        return Finding(len(rows), [*problems[:_MOST], *([f"There are {left} more problems."] if left > 0 else [])], late)

    @staticmethod
    def _verify_heads(hashes: dict[int, str], lines: list[str], problems: list[str]) -> list[int]:
        late, expected = [], 1
        for place, line in enumerate(lines, 1):
            number, _, rest = line.partition(" ")
            head, _, mark = rest.partition(" ")
            if not (number.isascii() and number.isdigit()) or len(head) != len(_START) or mark not in ("", _LATE):
                problems.append(f"Line {place} of the file of heads is no head.")
                continue
            row = int(number)
            if row < expected:
                problems.append(f"Line {place} of the file of heads is for row {row}, which is out of order.")
                continue
            if row > expected:
                problems.append(f"The heads of rows {expected} to {row - 1} are missing before line {place} of their file.")
            if row not in hashes:
                problems.append(f"Row {row} is missing: line {place} of the file of heads has its head.")
            elif hashes[row] != head:
                problems.append(f"Row {row} has another hash than line {place} of the file of heads: the chain was rewritten, or the line.")
            if mark:
                late.append(row)
            expected = row + 1
        last = max(hashes, default=0)
        if last >= expected:
            problems.append(f"The file of heads ends before row {expected}, and there are rows up to {last}: lines are missing at its end.")
        return late

    def _append_heads(self, number: int, head: str, more: str) -> None:
        """Append ``more``, and before it the head of row ``number`` where exactly that one is missing. More missing ones were cut off, and
        stay missing for ``verify`` to tell."""
        descriptor = os.open(self._heads, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            os.lseek(descriptor, max(0, size - _TAIL), os.SEEK_SET)
            tail = os.read(descriptor, _TAIL)
            *_, line = tail.decode("utf-8", "replace").splitlines() or [""]
            first = line.partition(" ")[0]
            present = int(first) if first.isascii() and first.isdigit() else 0
            text = f"{number} {head} {_LATE}\n" if number and present == number - 1 else ""
            if tail and not tail.endswith(b"\n"):
                text = f"\n{text}"
            if text + more:
                os.write(descriptor, (text + more).encode())
        finally:
            os.close(descriptor)


def _hash(number: int, content: str, before: str) -> str:
    return hashlib.sha256(f"{number}\n{before}\n{content}".encode("utf-8", "surrogatepass")).hexdigest()


def _rows(first: int, last: int) -> str:
    return f"Row {first} is" if first == last else f"Rows {first} to {last} are"
