"""The replicas of a model: which there are, and when one starts, starts again or ends."""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from llmasos_engine.step_meter import NOBODY, Listeners
from llmasos_hookspecs import LLMasOSError, Placement
from llmasos_hookspecs.guarding.changes import Changes
from llmasos_hookspecs.guarding.edge import crossing
from llmasos_hookspecs.guarding.watchdog import watchdog
from llmasos_replicas.replica import Replica
from llmasos_replicas.restarts import Restarts
from llmasos_replicas.routing import Backlogs
from llmasos_replicas.scaling import Load, Scaling
from llmasos_replicas.spec import WorkerSpec

_log = logging.getLogger("llmasos.replicas")

#: Seconds after which the placement is asked again which hosts are leaving.
_HOSTS_SECONDS: Final = 5.0


class Fleet(ABC):
    """Starts replicas in the seats of a placement, as many as are needed, and again where one has died or its host is leaving.

    Its lock is that of ``_changes``; methods are called with it held, but for those that run on a thread of their own. What watches it (a
    subclass) is ``look``-ed at by the watchdog, and calls ``_tend`` there.
    """

    def __init__(
        self,
        model: str,
        specs: Sequence[WorkerSpec],
        placement: Placement,
        label: str,
        on_message: Callable[[Replica, str, tuple[Any, ...]], None],
        *,
        listeners: Listeners = NOBODY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing. It owns ``placement`` from now on, which ``label`` names in messages."""
        self.model: Final = model
        self._specs = list(specs)
        self._placement = placement
        self._label = label
        self._on_message = on_message
        self._listeners = listeners
        self._clock = clock
        self._changes = Changes()
        self._replicas: dict[int, Replica] = {}
        #: Of the replicas that take requests.
        self._backlogs = Backlogs()
        self._restarts = Restarts(len(specs), clock)
        self._refused: LLMasOSError | None = None
        self._closed: LLMasOSError | None = None
        self._scaling: Scaling | None = None
        self._growing: set[int] = set()
        self._hosts_due = clock() + _HOSTS_SECONDS

    @abstractmethod
    def look(self, now: float) -> bool:
        """Called by the watchdog; returns whether to be called again."""

    def _tend(self, load: Callable[[float], Load]) -> None:
        """Start what has rested, or what ``load`` asks for, and end what is not needed or on a host that is leaving."""
        for number in self._restarts.rested():
            threading.Thread(target=self._end_rest, args=(number,), name=f"llmasos-again-{number}", daemon=True).start()
        if self._closed is not None:
            return
        if self._scaling is not None:
            self._scale(self._scaling, load(self._clock()))
        if self._clock() >= self._hosts_due:
            self._hosts_due = math.inf  # until they are known
            threading.Thread(target=self._leave_hosts, name="llmasos-hosts", daemon=True).start()
        for replica in list(self._replicas.values()):
            if replica.draining and not replica.jobs:
                replica.kill("was no longer needed")

    def _staying(self) -> list[Replica]:
        """The replicas that are not about to end."""
        return [replica for replica in self._replicas.values() if not replica.draining]

    def _scale(self, scaling: Scaling, load: Load) -> None:
        """Start or drain replicas as the load asks."""
        wanted = scaling.target(self._clock(), load) - load.replicas
        if wanted > 0:
            self._grow(wanted)
        elif wanted < 0 and (ready := [replica for replica in self._staying() if replica.ready is not None]):
            least = min(ready, key=lambda replica: (replica.outstanding, -replica.number))
            self._drain(least)
            _log.info("Replica %d of %s is not needed, and ends when it has finished.", least.number, self.model)

    def _drain(self, replica: Replica) -> None:
        """Let a replica finish what it has, and then end."""
        replica.draining = True
        self._backlogs.remove(replica.number)

    def _leave_hosts(self) -> None:
        """Drain the replicas on hosts that will be gone soon, as long as others serve. On a thread of its own, because a placement may take
        long to answer."""
        try:
            with crossing(self._label, "hosts"):
                leaving = {host.name for host in self._placement.hosts() if host.leaving}
        except LLMasOSError as error:
            _log.warning("%s", error)
            leaving = set()
        with self._changes.lock:
            self._hosts_due = self._clock() + _HOSTS_SECONDS
            for replica in list(self._replicas.values()):
                there = replica.where.partition(",")[0]
                if there in leaving and replica.number in self._backlogs and len(self._backlogs) > 1:
                    replica.leaves = True
                    self._drain(replica)
                    _log.info("Replica %d of %s leaves %s when it has finished.", replica.number, self.model, there)

    def _grow(self, wanted: int) -> None:
        """Keep replicas that were to end, then start new ones."""
        for replica in self._replicas.values():
            if replica.draining and not replica.leaves and replica.jobs and wanted:
                replica.draining = False
                self._backlogs.add(replica.number, replica.outstanding)
                wanted -= 1
        numbers = range(len(self._specs))
        free = [each for each in numbers if each not in self._replicas and each not in self._growing and not self._restarts.rests(each)]
        for number in free[:wanted]:
            self._growing.add(number)
            threading.Thread(target=self._start_more, args=(number,), name=f"llmasos-more-{number}", daemon=True).start()

    def _start_more(self, number: int) -> None:
        """On a thread of its own, because a placement may take long to start a seat. Where it refuses, the load is looked at again."""
        with self._changes.lock:
            if self._closed is None:
                self._start_again(number)
            self._growing.discard(number)
            self._changes.tell()

    def _start(self, number: int) -> None:
        self._replicas[number] = Replica(number, self._specs[number], self._placement, self._label, self._on_message, self._listeners)
        watchdog().wake(self)

    def _rest(self, number: int) -> None:
        """Start a replica again when it has rested."""
        seconds = self._restarts.rest(number)
        _log.warning("Replica %d of %s rests for %g seconds before it is started again.", number, self.model, seconds)
        watchdog().wake(self)

    def _end_rest(self, number: int) -> None:
        """On a thread of its own, because a placement may take long to start a seat."""
        with self._changes.lock:
            if self._closed is None and number not in self._replicas and not self._start_again(number):
                self._rest(number)

    def _start_again(self, number: int) -> bool:
        """Start a replica that has ended; False where the placement refuses."""
        try:
            self._start(number)
        except LLMasOSError as error:
            self._refused = error
            _log.warning("Replica %d of %s cannot be started again: %s", number, self.model, error)
            return False
        return True
