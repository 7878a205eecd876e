"""One seat, seen from the process that started it."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from typing import Any, Final

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, OutOfMemoryError, RayActorError, RayError

from llmasos_placement_ray.actor import RUNNING

#: Seconds that a call for messages waits in the seat where there are none; its return is the sign of life.
_BEAT: Final = 1.0
#: Ray's own words for how the process of an actor ended, in the middle of its message.
_DETAIL: Final = re.compile(r"Worker exit detail: (.*?)(?:\. |$)", re.DOTALL)


class RaySeat:
    """An actor, and the thread that takes its messages.

    In either direction one call is under way at a time. So a message cannot overtake another, and one that is lost ends the seat: the call
    that carried it fails.
    """

    def __init__(
        self,
        actor: Any,
        *,
        name: str,
        start_timeout: float,
        silence: float,
        node_name: Callable[[str], str],
        no_room: Callable[[], str],
        on_message: Callable[[bytes], None],
        on_end: Callable[[str], None],
    ) -> None:
        """``node_name`` gives the name of a node by Ray's id of it, and ``no_room`` says why the actor found no node."""
        self.where = "starting"
        self._actor = actor
        self._start_timeout = start_timeout
        self._silence = silence
        self._node_name = node_name
        self._no_room = no_room
        self._on_message = on_message
        self._on_end = on_end
        self._sending = threading.Lock()
        self._placed = threading.Event()
        self._over = threading.Event()
        self._killed = False
        self.thread: Final = threading.Thread(target=self._run, name=f"llmasos-ray-{name}", daemon=True)
        self.thread.start()

    def send(self, message: bytes) -> bool:
        with self._sending:
            self._placed.wait()  # also set at the end of a seat that found no place
            if self._over.is_set():
                return False
            try:
                call = self._actor.put.options(concurrency_group="into").remote(message)
                while not ray.wait([call], timeout=_BEAT)[0]:
                    if self._over.is_set():
                        return False
                ray.get(call)
            except RayError:
                # The message may have arrived or not. Nothing may be sent after it, so that none is missing in the middle.
                self.kill()
                return False
            return True

    def kill(self) -> None:
        if not self._over.is_set():
            self._killed = True
            self._fence()

    def _run(self) -> None:
        try:
            why = self._serve()
        except Exception as error:  # a fault of Ray's client or of this module: the seat's owner must hear of its end all the same
            why = f"was given up ({type(error).__name__}: {error})"
        self._fence()
        self._over.set()
        self._placed.set()
        self._on_end("was killed" if self._killed else why)

    def _fence(self) -> None:
        """End the actor wherever it is. Where its node cannot be reached, Ray ends it as soon as it can; nobody takes its messages."""
        with contextlib.suppress(RayError, ValueError):  # ValueError: Ray forgot it, since it ended long ago
            ray.kill(self._actor, no_restart=True)

    def _serve(self) -> str:
        """Hand on the seat's messages until it ends; returns how it ended, as the end of a sentence."""
        try:
            node, pid = ray.get(self._actor.place.remote(), timeout=self._start_timeout)
            self.where = f"{self._node_name(node)}, pid {pid}"
            self._placed.set()
            while True:
                end, *messages = ray.get(self._actor.take.options(concurrency_group="out").remote(_BEAT), timeout=_BEAT + self._silence)
                for message in messages:
                    self._on_message(message)
                if end != RUNNING:
                    return str(end)
        except GetTimeoutError:
            if not self._placed.is_set():
                return f"was not started within {self._start_timeout:g} seconds: {self._no_room()}"
            return f"gave no sign of life for {self._silence:g} seconds (placement.silence), and was ended"
        except OutOfMemoryError:
            return "was ended by Ray, because its node ran out of memory"
        except ActorUnavailableError:
            return "cannot be reached: its node, or its process, is gone"
        except RayActorError as error:
            detail = _DETAIL.search(str(error))
            return f"ended ({detail[1].strip() if detail else str(error).strip().splitlines()[-1].strip()})"
