"""What runs in a seat's own process: the entry, and the seat's ends of both kinds of connection."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import ray

from llmasos_hookspecs import run_entry
from llmasos_hookspecs.guarding.edge import in_words
from llmasos_hookspecs.placement import Receive, Send
from llmasos_placement_ray.frames import BEAT, END, MESSAGE, Frames
from llmasos_placement_ray.handshake import Listener

#: Concurrency groups of the actor, one thread each: messages of either direction are handled one call at a time, so they keep their order,
#: and neither direction waits for the other.
GROUPS: Final = {"into": 1, "out": 1}
#: What ``take`` says in place of an end while the entry runs.
RUNNING: Final = ""
#: Seconds between two signs of life.
BEAT_SECONDS: Final = 1.0


class SeatProcess:
    """Runs an entry, once one of ``listen`` and ``begin`` says how its messages travel.

    What calls carry is bytes, numbers, texts and lists of them, which Ray sends as they are, without pickle.
    """

    def __init__(self, entry: str, path: list[str]) -> None:
        """``path``: where modules may lie besides the places that this interpreter knows; those that this machine lacks are left out."""
        sys.path.extend(each for each in path if each not in sys.path and Path(each).exists())
        self._entry = entry
        self._calls = _Calls()

    def place(self) -> list[str]:
        """Ray's id of the node, and the process id."""
        return [ray.get_runtime_context().get_node_id(), str(os.getpid())]

    def listen(self, host: str) -> list[int | bytes]:
        """Messages travel by the one connection that is made to ``host`` with the key: the port, and the key."""
        listener = Listener(host)
        threading.Thread(target=self._serve_connection, args=(listener,), name="llmasos-seat", daemon=True).start()
        return [listener.port, listener.key]

    def begin(self) -> None:
        """Messages travel by ``put`` and ``take``."""
        threading.Thread(target=self._serve_calls, name="llmasos-seat", daemon=True).start()

    def put(self, message: bytes) -> None:
        """Queue a message for the entry."""
        self._calls.inbox.put(message)

    def take(self, seconds: float) -> list[str | bytes]:
        """``RUNNING``, or how the entry ended; then the messages that it sent since the last call. Waits for these, ``seconds`` at most."""
        return self._calls.take(seconds)

    def _serve_connection(self, listener: Listener) -> None:
        frames = Frames(listener.accept())

        def receive() -> bytes:
            try:
                return frames.receive()[1]
            except OSError as error:
                raise EOFError from error

        threading.Thread(target=_beat, args=(frames,), name="llmasos-beat", daemon=True).start()
        end = self._run(receive, lambda message: frames.send(MESSAGE, message))
        with contextlib.suppress(OSError, EOFError):
            frames.send(END, end.encode(errors="replace"))
            while True:  # the other side leaves first: it might not hear the end of what it has not read yet
                frames.receive()
        frames.close()

    def _serve_calls(self) -> None:
        self._calls.end(self._run(self._calls.inbox.get, self._calls.send))

    def _run(self, receive: Receive, send: Send) -> str:
        """How the entry ended."""
        try:
            run_entry(self._entry, receive, send)
        except BaseException as error:  # SystemExit too: whatever it was, the other side hears of it
            return f"failed: {in_words(error)}"
        return "ended by itself"


class _Calls:
    """The seat's end of a connection by calls.

    Attributes:
        inbox: messages for the entry.
    """

    def __init__(self) -> None:
        self.inbox: SimpleQueue[bytes] = SimpleQueue()
        self._sent: list[bytes] = []
        self._end = RUNNING
        self._changed = threading.Condition()

    def send(self, message: bytes) -> None:
        with self._changed:
            self._sent.append(message)
            self._changed.notify()

    def end(self, why: str) -> None:
        with self._changed:
            self._end = why
            self._changed.notify()

    def take(self, seconds: float) -> list[str | bytes]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._sent) or self._end != RUNNING, seconds)
            sent, self._sent = self._sent, []
            return [self._end, *sent]


def _beat(frames: Frames) -> None:
    """Give signs of life. They stop where a thread holds the interpreter lock for ever."""
    with contextlib.suppress(OSError):  # the connection is closed
        while True:
            time.sleep(BEAT_SECONDS)
            frames.send(BEAT)
