"""One replica as its parent sees it: its seat, what was sent to it, and what came back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

import attrs

from llmasos_engine.step_meter import Listeners
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import EngineInfo, LLMasOSError, Placement, Request, Seat
from llmasos_hookspecs.guarding.edge import crossing
from llmasos_replicas.numbered import Arrivals, Received, numbered
from llmasos_replicas.spec import WorkerSpec
from llmasos_replicas.wire import pack, unpack

_log = logging.getLogger("llmasos.replicas")

#: Seconds that closing a replica waits for its seat to end.
CLOSE_SECONDS: Final = 10.0
#: Times that a replica may say, a second apart, that it has not received what was sent to it; then that is lost.
_PATIENCE: Final = 5


@attrs.define(eq=False)
class Job:
    """One call in progress.

    Attributes:
        tokens: that its replica may have to compute for it.
        tickets: of its requests, by id.
        moves: how often it was moved to another replica.
        begun: it has started.
        told: some of its answer has come.
        left: tickets that its replica has not ended.
    """

    kind: str
    request: Request
    extra: Any
    tokens: int
    tickets: dict[str, Ticket[Any]]
    moves: int = 0
    begun: bool = False
    told: bool = False
    left: int = 0


@attrs.frozen
class Ready:
    """A replica's message once its model is loaded."""

    info: EngineInfo
    need: Any
    loader: str
    context_length: int
    kv_capacity: int
    pid: int


class Replica:
    """A worker in a seat.

    Messages are sent on a thread of its own: a seat that does not read blocks nobody. What the placement does wrong ends the replica: a
    message that is none, one that is missing in either direction, or an exception in ``send``. A message that comes twice counts once, what
    comes after the end is dropped, and of several ends the first counts.

    Attributes:
        number: its index among the replicas.
        ready: its model is loaded; None before.
        failure: why it could not load.
        jobs: unfinished jobs that were sent to it, by request id.
        silence: watchdog checks since its last message.
        draining: it gets no more jobs, and ends when it has finished those that it has.
        leaves: it drains because its host will be gone; another one takes its place.
    """

    def __init__(
        self,
        number: int,
        spec: WorkerSpec,
        placement: Placement,
        label: str,
        on_message: Callable[[Replica, str, tuple[Any, ...]], None],
        listeners: Listeners,
    ) -> None:
        """``label`` names the placement in messages. Raises ``ResourceError`` where no host has what the seat needs."""
        self.number = number
        self.ready: Ready | None = None
        self.failure: LLMasOSError | None = None
        self.jobs: dict[str, Job] = {}
        self.silence = 0
        self.draining = False
        self.leaves = False
        self._label = label
        self._on_message = on_message
        self._why = ""
        self._over = threading.Event()
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._sent = 0
        self._arrivals: Final = Arrivals()
        self._heard: Final = Received(_PATIENCE)
        self._broken = False
        self._ending = threading.Lock()
        self._called_by: int | None = None
        # What it says may come before ``start`` returns the seat, on a thread that is quicker than this one.
        self._seating = threading.Lock()
        self._seat: Seat | None = None
        self._killed = False
        with crossing(label, "start"):
            seat = placement.start(spec.seat, self._received, self._ended)
        with self._seating:
            self._seat = seat
        if self._killed:
            self.kill(self._why)
        listened = [event for event, listener in attrs.asdict(listeners, recurse=False).items() if listener is not None]
        elsewhere = None if spec.elsewhere is None else spec.elsewhere.to_mapping()
        self.send("open", spec.config.to_mapping(), listened, elsewhere, spec.digest)
        threading.Thread(target=self._deliver, args=(seat,), name=f"llmasos-to-replica-{number}", daemon=True).start()

    @property
    def outstanding(self) -> int:
        """Tokens of unfinished jobs, which the replica may still have to compute."""
        return sum(job.tokens for job in {id(job): job for job in self.jobs.values()}.values())

    @property
    def end(self) -> str:
        """How its seat ended, for messages."""
        return self._why or "no longer answers"

    @property
    def where(self) -> str:
        """Where it runs, for people."""
        try:
            with crossing(self._label, "where"):
                return "starting" if self._seat is None else str(self._seat.where)
        except LLMasOSError as error:
            return f"unknown ({error})"

    def send(self, *message: Any) -> bool:
        """Queue a message, without waiting; False where the seat has ended, which is reported by another thread. Raises ``WireError`` for
        values that cannot be sent."""
        data = pack(message)
        if self._over.is_set():
            return False
        self._outbox.put(data)
        return True

    def kill(self, why: str) -> None:
        """End the seat; the placement reports the end. ``why`` is for messages."""
        self._why = self._why or why
        with self._seating:
            self._killed, seat = True, self._seat
        if seat is not None:  # one that has just been started is ended by who started it
            with crossing(self._label, "kill"):
                seat.kill()

    def terminate(self) -> None:
        """Tell the seat to end, without waiting."""
        self.kill("was closed")

    def close(self) -> None:
        """End the seat, and wait for its end."""
        self.terminate()
        if self._called_by != threading.get_ident() and not self._over.wait(CLOSE_SECONDS):
            _log.warning("Replica %d has not ended %g seconds after it was closed; see the %s.", self.number, CLOSE_SECONDS, self._label)

    # Called by the placement, one at a time

    def _received(self, data: bytes) -> None:
        if self._over.is_set() or self._broken:
            return
        self._called_by = threading.get_ident()
        try:
            message = self._arrivals.take(data)
            if message is None:
                _log.warning("A message of replica %d came twice; see the %s.", self.number, self._label)
                return
            verb, *arguments = unpack(message)
            self.silence = 0
            if verb == "alive":
                self._heard.said(arguments[0], self._sent)
            else:
                self._on_message(self, verb, tuple(arguments))
        except Exception as error:
            self._broken = True  # what comes after this may rely on it
            _log.exception("Replica %d was misunderstood.", self.number)
            self.kill(f"said what is no answer ({error})")
        finally:
            self._called_by = None

    def _ended(self, why: str) -> None:
        with self._ending:
            if self._over.is_set():
                return
            self._over.set()
        self._outbox.put(None)
        self._why = self._why or str(why)
        self._called_by = threading.get_ident()
        try:
            self._on_message(self, "died", ())
        finally:
            self._called_by = None

    def _deliver(self, seat: Seat) -> None:
        while (data := self._outbox.get()) is not None:
            try:
                with crossing(self._label, "send"):
                    if not seat.send(numbered(self._sent, data)):
                        return  # it has ended, which the placement reports
                self._sent += 1
            except LLMasOSError as error:
                self.kill(f"could not be sent a message ({error})")
                return
