"""The placement contract: where the replicas of a model run, and how bytes travel between them and core.

Core owns what is said: the protocol, routing, restarts, deadlines. A placement owns where a replica (a *seat*) runs, an ordered connection
to it, and noticing that it has ended.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs

from llmasos_hookspecs.errors import PluginError

#: What a seat runs calls ``receive`` for the next message (``EOFError`` once core has left) and ``send`` with an answer.
Receive = Callable[[], bytes]
Send = Callable[[bytes], None]


@attrs.frozen(kw_only=True)
class Host:
    """A machine, or a part of one, on which seats can run.

    Attributes:
        name: unique among the placement's hosts; what ``llmasos ps`` shows.
        cpus: cores that seats may use.
        memory: bytes that seats may use; None: not known.
        accelerators: one name for each device, such as ``cuda:0``.
        alive: whether seats can be started on it now.
        leaving: whether it will be gone soon: core ends the seats on it when they have finished, and starts them elsewhere.
    """

    name: str
    cpus: int
    memory: int | None = None
    accelerators: tuple[str, ...] = ()
    alive: bool = True
    leaving: bool = False


@attrs.frozen(kw_only=True)
class SeatSpec:
    """What a seat runs, and what it needs.

    Attributes:
        model: name of the model, for labels.
        number: index of the seat among the model's; a seat that is started again has the same.
        entry: ``module:function``, called in the seat's process as ``function(receive, send)``; it serves until ``receive`` raises
            ``EOFError``. ``run_entry`` imports and calls it.
        path: places in which the seat's interpreter must look for modules beside its own (``sys.path`` of this process); where hosts have
            an environment of their own, they need not exist there.
        cpus: cores of its own; 0: it shares what there is.
        memory: bytes for weights and KV cache; None: no bound.
        accelerators: devices of its own.
    """

    model: str
    number: int
    entry: str
    path: tuple[str, ...] = ()
    cpus: int = 0
    memory: int | None = None
    accelerators: int = 0


@runtime_checkable
class Seat(Protocol):
    """One replica that was started. Methods may be called from any thread, also from the seat's own callbacks.

    Attributes:
        where: on which host it runs and as what, in a few words for people, the host's name and a comma first: ``node-3, pid 4711``. It may
            be ``starting`` at first.
    """

    @property
    def where(self) -> str: ...

    def send(self, message: bytes) -> bool:
        """Send a message; False where the seat has ended. Messages arrive whole, once, and in the order of the calls. It may wait while
        the connection is full, but never for what the seat does with the message."""
        ...

    def kill(self) -> None:
        """End the seat at once, whatever it is doing, and return without waiting; ``on_end`` follows. Does nothing once it has ended."""
        ...


@runtime_checkable
class Placement(Protocol):
    """Starts seats. Thread-safe."""

    def hosts(self) -> Sequence[Host]:
        """The hosts at this moment; at least one."""
        ...

    def start(self, spec: SeatSpec, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> Seat:
        """Start a seat, and return before it runs.

        The callbacks come from threads of the placement, one at a time for a seat, perhaps before this returns. ``on_message`` gets each
        message of the seat whole, once, and in the order in which it was sent. ``on_end`` is called exactly once and last, however the seat
        ended (it could not be started, it returned, it was killed, its host is gone), with the end of the sentence "Replica 0 of NAME ...":
        ``was ended by SIGKILL``.

        Raises:
            ResourceError: no host, however idle, has what the spec needs. ``on_end`` is not called then.
        """
        ...

    def close(self) -> None:
        """End all seats, and return when they have ended; ``on_end`` has been called for each. Calling it again does nothing."""
        ...


def run_entry(entry: str, receive: Receive, send: Send) -> Any:
    """Import and call what ``SeatSpec.entry`` names, in the seat's process. Raises ``PluginError`` where there is no such function."""
    module, _, name = entry.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PluginError(f"The seat cannot run {entry!r} ({error}); install the same packages on every host.") from error
    return function(receive, send)
