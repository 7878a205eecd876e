"""Which process holds a reservation, and whether it still runs."""

from __future__ import annotations

import os
import platform
import sqlite3
from typing import Any, Final

import psutil

#: Seconds by which the system's figure for a process's start may move when the clock is set.
_TOLERANCE: Final = 2.0


def register(connection: sqlite3.Connection) -> int:
    """Release what processes of this machine reserved that no longer run, and the number of this process in the database."""
    host = platform.node()
    for number, pid, started in connection.execute("SELECT id, pid, started FROM processes WHERE host = ?", (host,)).fetchall():
        if not _runs(pid, started):
            connection.execute("DELETE FROM reservations WHERE process = ?", (number,))
            connection.execute("DELETE FROM processes WHERE id = ?", (number,))
    started = _start_of(psutil.Process(os.getpid()))  # type: ignore[no-untyped-call]  # psutil has no types
    cursor = connection.execute("INSERT INTO processes (host, pid, started) VALUES (?, ?, ?)", (host, os.getpid(), started))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _runs(pid: int, started: float) -> bool:
    """Whether the process still runs: a later one may have its number."""
    try:
        process: Any = psutil.Process(pid)  # type: ignore[no-untyped-call]  # psutil has no types
        return bool(process.status() != psutil.STATUS_ZOMBIE) and abs(_start_of(process) - started) < _TOLERANCE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # of another user: it is there, and what it holds ends at its bound


def _start_of(process: Any) -> float:
    return float(process.create_time())
