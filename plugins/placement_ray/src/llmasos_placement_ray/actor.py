"""What runs in a seat's own process: the entry, and the two ends of the connection."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import ray

from llmasos_hookspecs import run_entry
from llmasos_hookspecs.guarding.edge import in_words

#: Concurrency groups of the actor, one thread each: messages of either direction are handled one call at a time, so they keep their order,
#: and neither direction waits for the other.
GROUPS: Final = {"into": 1, "out": 1}
#: What ``take`` says in place of an end while the entry runs.
RUNNING: Final = ""


class SeatProcess:
    """Runs an entry on a thread of its own; its caller puts messages in, and takes out what the entry sent.

    What travels is bytes, texts and lists of them, which Ray sends as they are, without pickle.
    """

    def __init__(self, entry: str, path: list[str]) -> None:
        """``path``: where modules may lie besides the places that this interpreter knows; those that this machine lacks are left out."""
        sys.path.extend(each for each in path if each not in sys.path and Path(each).exists())
        self._inbox: SimpleQueue[bytes] = SimpleQueue()
        self._sent: list[bytes] = []
        self._end = RUNNING
        self._changed = threading.Condition()
        threading.Thread(target=self._run, args=(entry,), name="llmasos-seat", daemon=True).start()

    def place(self) -> list[str]:
        """Ray's id of the node, and the process id."""
        return [ray.get_runtime_context().get_node_id(), str(os.getpid())]

    def put(self, message: bytes) -> None:
        """Queue a message for the entry."""
        self._inbox.put(message)

    def take(self, seconds: float) -> list[str | bytes]:
        """``RUNNING``, or how the entry ended; then the messages that it sent since the last call. Waits for these, ``seconds`` at most."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._sent) or self._end != RUNNING, seconds)
            sent, self._sent = self._sent, []
            return [self._end, *sent]

    def _run(self, entry: str) -> None:
        try:
            run_entry(entry, self._inbox.get, self._send)
            end = "ended by itself"
        except BaseException as error:  # SystemExit too: whatever it was, the other side hears of it
            end = f"failed: {in_words(error)}"
        with self._changed:
            self._end = end
            self._changed.notify()

    def _send(self, message: bytes) -> None:
        with self._changed:
            self._sent.append(message)
            self._changed.notify()
