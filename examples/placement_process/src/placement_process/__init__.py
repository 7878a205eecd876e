"""An example placement for LLMasOS: each replica is a plain subprocess, and messages are frames on its standard streams."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading

import attrs

from llmasos_hookspecs import Component, Host, ResourceError, hookimpl
from placement_process.frames import read_frame, write_frame


@attrs.frozen(kw_only=True)
class Options:
    """Options of the placement."""

    seats: int = attrs.field(default=64, validator=attrs.validators.ge(1), metadata={"help": "Replicas that run at once, at most."})


class ProcessSeat:
    """A subprocess, a thread that reads its frames, and a lock for those that write."""

    def __init__(self, spec, on_message, on_end):
        self._on_message = on_message
        self._on_end = on_end
        self._writing = threading.Lock()
        self._process = subprocess.Popen(_command(spec), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.where = f"{socket.gethostname()}, pid {self._process.pid}"
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._listen, name=f"seat-{spec.model}-{spec.number}", daemon=True)
        self.thread.start()

    def send(self, message):
        try:
            with self._writing:
                if self.ended.is_set():
                    return False
                write_frame(self._process.stdin, message)
        except (OSError, ValueError):  # the pipe is broken, or was closed
            return False
        return True

    def kill(self):
        self._process.kill()

    def _listen(self):
        while (message := read_frame(self._process.stdout)) is not None:
            self._on_message(message)
        self._process.kill()
        code = self._process.wait()
        self.ended.set()
        self._process.stdout.close()
        with self._writing, contextlib.suppress(OSError):  # what was written last found nobody
            self._process.stdin.close()
        self._on_end(f"was ended by signal {-code}" if code < 0 else f"ended with status {code}")


class Processes:
    """The seats of one pipeline."""

    def __init__(self, options):
        self._options = options
        self._lock = threading.Lock()
        self._seats = []

    def hosts(self):
        return [Host(name=socket.gethostname(), cpus=os.cpu_count() or 1, memory=_memory())]

    def start(self, spec, on_message, on_end):
        (host,) = self.hosts()
        if spec.cpus > host.cpus or spec.accelerators > len(host.accelerators) or (host.memory and (spec.memory or 0) > host.memory):
            raise ResourceError(f"{host.name} has {host.cpus} cores, and no room for replica {spec.number} of {spec.model}; ask for less.")
        with self._lock:
            self._seats = [seat for seat in self._seats if not seat.ended.is_set()]
            if len(self._seats) >= self._options.seats:
                raise ResourceError(f"{self._options.seats} replicas run already; raise placement.seats.")
            seat = ProcessSeat(spec, on_message, on_end)
            self._seats.append(seat)
        return seat

    def close(self):
        with self._lock:
            seats, self._seats = self._seats, []
        for seat in seats:
            seat.kill()
        for seat in seats:
            if seat.thread is not threading.current_thread():
                seat.thread.join()


def _command(spec):
    # -I: nothing is imported from the working folder; the path is that of this process.
    code = f"import sys; sys.path[:] = {list(spec.path)!r}\nfrom placement_process.child import main; main({spec.entry!r})"
    return [sys.executable, "-I", "-c", code]


def _memory():
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


@hookimpl
def llmasos_component():
    return Component(summary="Replicas in plain subprocesses.", options=Options)


@hookimpl
def llmasos_create_placement(options, context):
    return Processes(options)
