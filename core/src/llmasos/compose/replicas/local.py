"""The placement ``local``: each replica is a child process of this one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from typing import Final

from llmasos.system.hardware import memory
from llmasos_hookspecs import Component, Context, Host, NoOptions, ResourceError, SeatSpec, hookimpl
from llmasos_isolation.children import code_command

#: What the child runs. ``code_command`` gives it the import path of this process.
_SERVE: Final = "from llmasos.compose.replicas.local_child import main; main()"


class LocalSeat:
    """A child process at the other end of a socket, and the thread that reads what it sends."""

    def __init__(self, spec: SeatSpec, cores: Sequence[int], on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._sending = threading.Lock()
        self._over = False
        self._socket, theirs = Pipe()
        try:
            self._process = subprocess.Popen(
                code_command(_SERVE, str(theirs.fileno()), spec.entry, ",".join(map(str, cores))),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self.where: Final = f"{socket.gethostname()}, pid {self._process.pid}"
        self.thread: Final = threading.Thread(target=self._listen, name=f"llmasos-replica-{spec.number}", daemon=True)
        self.thread.start()

    def send(self, message: bytes) -> bool:
        with self._sending:
            if self._over:
                return False
            try:
                self._socket.send_bytes(message)
            except OSError:
                return False
            return True

    def kill(self) -> None:
        self._process.kill()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._on_message(self._socket.recv_bytes())
        self._process.kill()
        code = self._process.wait()
        with self._sending:  # the child has ended, so that a message that is being sent fails at once
            self._over = True
            self._socket.close()
        self._on_end(f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}")


class LocalPlacement:
    """Seats as child processes. A seat with cores of its own gets those of its number, and the same ones when it is started again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seats: list[LocalSeat] = []

    def hosts(self) -> Sequence[Host]:
        cpus = len(_cores()) or os.cpu_count() or 1
        return [Host(name=socket.gethostname(), cpus=cpus, memory=memory().total)]

    def start(self, spec: SeatSpec, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> LocalSeat:
        if os.name != "posix":
            raise ResourceError("Replicas in child processes need a POSIX system; set model.replicas to 1 here.")
        (host,) = self.hosts()
        if spec.cpus > host.cpus or spec.accelerators or (spec.memory or 0) > (host.memory or 0):
            raise ResourceError(
                f"A replica of {spec.model} needs {spec.cpus} cores, {spec.memory or 0} bytes and {spec.accelerators} accelerators of its "
                f"own, and this machine has {host.cpus} cores and {host.memory} bytes; lower model.replicas, or take another placement."
            )
        cores = _cores()
        first = spec.number * spec.cpus
        own = [cores[(first + each) % len(cores)] for each in range(spec.cpus)] if cores else []
        with self._lock:
            self._seats = [seat for seat in self._seats if seat.thread.is_alive()]
            seat = LocalSeat(spec, own, on_message, on_end)
            self._seats.append(seat)
        return seat

    def close(self) -> None:
        with self._lock:
            seats, self._seats = self._seats, []
        for seat in seats:
            seat.kill()
        for seat in seats:
            if seat.thread is not threading.current_thread():
                seat.thread.join()


def _cores() -> list[int]:
    """The cores that this process may use; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Replicas as child processes on this machine.", options=NoOptions)


@hookimpl
def llmasos_create_placement(options: NoOptions, context: Context) -> LocalPlacement:
    return LocalPlacement()
