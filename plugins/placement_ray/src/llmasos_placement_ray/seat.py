"""One seat, seen from the process that started it."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from typing import Any, Final

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, OutOfMemoryError, RayActorError, RayError

from llmasos_placement_ray.lines import CallLine, Line, SocketLine

#: Seconds in which Ray knows why a process ended whose connection is closed.
_REASON_SECONDS: Final = 1.0
#: Ray's own words for how the process of an actor ended, in the middle of its message.
_DETAIL: Final = re.compile(r"Worker exit detail: (.*?)(?:\. |$)", re.DOTALL)


class RaySeat:
    """An actor, and the thread that takes its messages."""

    def __init__(
        self,
        actor: Any,
        *,
        name: str,
        start_timeout: float,
        silence: float,
        node_name: Callable[[str], str],
        listens_at: Callable[[str], str | None],
        no_room: Callable[[], str],
        on_message: Callable[[bytes], None],
        on_end: Callable[[str], None],
    ) -> None:
        """``node_name`` gives the name of a node by Ray's id of it, ``listens_at`` the address at which a seat on it listens, None where
        messages travel by calls; ``no_room`` says why the actor found no node."""
        self.where = "starting"
        self._actor = actor
        self._start_timeout = start_timeout
        self._silence = silence
        self._node_name = node_name
        self._listens_at = listens_at
        self._no_room = no_room
        self._on_message = on_message
        self._on_end = on_end
        self._sending = threading.Lock()
        self._placed = threading.Event()
        self._over = threading.Event()
        self._killed = False
        self._line: Line | None = None
        self.thread: Final = threading.Thread(target=self._run, name=f"llmasos-ray-{name}", daemon=True)
        self.thread.start()

    def send(self, message: bytes) -> bool:
        with self._sending:
            self._placed.wait()  # also set at the end of a seat that found no place
            if self._line is None or self._over.is_set():
                return False
            try:
                return self._line.send(message)
            except RayError:
                # The message may have arrived or not. Nothing may be sent after it, so that none is missing in the middle.
                self.kill()
                return False

    def kill(self) -> None:
        if not self._over.is_set():
            self._killed = True
            self._fence()

    def _run(self) -> None:
        try:
            why = self._serve()
        except Exception as error:  # also a fault of Ray's client or of this module: the seat's owner must hear of its end all the same
            why = self._in_words(error)
        self._over.set()
        self._fence()
        self._placed.set()
        self._on_end("was killed" if self._killed else why)

    def _fence(self) -> None:
        """End the actor wherever it is. Where its node cannot be reached, Ray ends it as soon as it can; nobody takes its messages."""
        with contextlib.suppress(RayError, ValueError):  # ValueError: Ray forgot it, since it ended long ago
            ray.kill(self._actor, no_restart=True)
        if self._line is not None:
            self._line.close()

    def _serve(self) -> str:
        """Hand on the seat's messages until it ends; returns how it ended, as the end of a sentence. Raises what ``Line.deliver`` does."""
        try:
            node, pid = ray.get(self._actor.place.remote(), timeout=self._start_timeout)
        except GetTimeoutError:
            return f"was not started within {self._start_timeout:g} seconds: {self._no_room()}"
        self.where = f"{self._node_name(node)}, pid {pid}"
        host = self._listens_at(node)
        self._line = CallLine(self._actor, self._silence) if host is None else SocketLine(self._actor, host, self._silence)
        if self._killed:  # before there was a connection to close
            self._line.close()
        self._placed.set()
        return self._line.deliver(self._on_message)

    def _in_words(self, error: Exception) -> str:
        """How the seat ended, by what was raised when it did."""
        match error:
            case TimeoutError():
                return f"gave no sign of life for {self._silence:g} seconds (placement.silence), and was ended"
            case EOFError() | OSError():
                return self._known_to_ray() or f"has no connection: {error}"
            case OutOfMemoryError():
                return "was ended by Ray, because its node ran out of memory"
            case ActorUnavailableError():
                return "cannot be reached: its node, or its process, is gone"
            case RayActorError():
                detail = _DETAIL.search(str(error))
                return f"ended ({detail[1].strip() if detail else str(error).strip().splitlines()[-1].strip()})"
            case _:
                return f"was given up ({type(error).__name__}: {error})"

    def _known_to_ray(self) -> str:
        """Why the actor ended whose connection is closed; empty: Ray does not know of an end."""
        if self._killed:
            return ""
        try:
            ray.get(self._actor.place.remote(), timeout=_REASON_SECONDS)
        except GetTimeoutError:
            return ""
        except RayError as error:
            return self._in_words(error)
        return ""
