"""The two kinds of connection to a seat, seen from the process that started it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

import ray

from llmasos_placement_ray.actor import BEAT_SECONDS, RUNNING
from llmasos_placement_ray.frames import END, MESSAGE, Frames
from llmasos_placement_ray.handshake import connect


class Line(Protocol):
    """Messages to a seat and from it, in the order in which they were sent."""

    def send(self, message: bytes) -> bool:
        """Send a message, one thread at a time; False once the connection is closed. Raises ``RayError``: it may have arrived or not."""
        ...

    def deliver(self, on_message: Callable[[bytes], None]) -> str:
        """Hand on what the seat sends, until its entry ends: how it did.

        Raises:
            TimeoutError: the seat gave no sign of life.
            EOFError, OSError, RayError: the connection was closed by either side, or broke.
        """
        ...

    def close(self) -> None:
        """Hand on nothing more. From any thread; those who wait in ``send`` return."""
        ...


class CallLine:
    """By calls of the actor, one at a time in each direction: so a message cannot overtake another, and the call that carried one that is
    lost fails."""

    def __init__(self, actor: Any, silence: float) -> None:
        self._put = actor.put.options(concurrency_group="into")
        self._take = actor.take.options(concurrency_group="out")
        self._silence = silence
        self._closed = threading.Event()
        actor.begin.remote()

    def send(self, message: bytes) -> bool:
        call = self._put.remote(message)
        while not ray.wait([call], timeout=BEAT_SECONDS)[0]:
            if self._closed.is_set():
                return False
        ray.get(call)
        return True

    def deliver(self, on_message: Callable[[bytes], None]) -> str:
        while True:
            end, *messages = ray.get(self._take.remote(BEAT_SECONDS), timeout=BEAT_SECONDS + self._silence)
            if self._closed.is_set():
                raise EOFError("it was closed")
            for message in messages:
                on_message(message)
            if end != RUNNING:
                return str(end)

    def close(self) -> None:
        self._closed.set()


class SocketLine:
    """By a socket between the two processes; Ray only tells where it is, and its key."""

    def __init__(self, actor: Any, host: str, silence: float) -> None:
        """``host``: where the seat listens. Raises ``ConnectionError`` or ``RayError`` where it cannot be reached."""
        port, key = ray.get(actor.listen.remote(host), timeout=silence)
        try:
            connection = connect(host, port, key, silence)
        except ConnectionError as error:
            raise ConnectionError(f'{error}; open the ports of the nodes to each other, or set placement.channel to "ray"') from error
        self._frames: Final = Frames(connection, BEAT_SECONDS + silence)
        self._closed = False

    def send(self, message: bytes) -> bool:
        try:
            self._frames.send(MESSAGE, message)
        except OSError:
            return False
        return True

    def deliver(self, on_message: Callable[[bytes], None]) -> str:
        try:
            while True:
                kind, content = self._frames.receive()
                if self._closed:
                    raise EOFError("it was closed")
                if kind == MESSAGE:
                    on_message(content)
                elif kind == END:
                    return content.decode()
        finally:
            self._frames.close()

    def close(self) -> None:
        self._closed = True
        self._frames.shut()
