"""Child processes of the placement ``local`` as forks of one that has imported what they need, which takes longer than most of them run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

#: Forks for each job that comes in, and becomes its program in the child. With a job come a pipe for the child's process id and, once it
#: has ended, its exit code, and the descriptors that the child has under other numbers than its command says.
PROGRAM: Final = """
import gc, json, os, select, signal, socket, sys

exec(sys.argv[2], {"__name__": "warm"})
gc.collect()
gc.freeze()
control = socket.socket(fileno=int(sys.argv[1]))
ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.set_wakeup_fd(wake)
running = {}
while True:
    ready = select.select([control, ended], [], [])[0]
    if ended in ready:
        os.read(ended, 4096)
        while running:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                break
            told = running.pop(child)
            os.write(told, b"%d\\n" % os.waitstatus_to_exitcode(status))
            os.close(told)
    if control not in ready:
        continue
    data, (told, *given), _, _ = socket.recv_fds(control, 1 << 20, 8)
    if not data:
        sys.exit()
    job = json.loads(data)
    child = os.fork()
    if not child:
        break
    running[child] = told
    os.write(told, b"%d\\n" % child)
    for number in given:
        os.close(number)
signal.set_wakeup_fd(-1)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
for number in (told, ended, wake, *running.values()):
    os.close(number)
control.close()
for wanted, number in zip(job["descriptors"], given):
    job["arguments"][job["arguments"].index(str(wanted))] = str(number)
os.environ.clear()
os.environ.update(job["env"])
os.chdir(job["folder"])
sys.argv = ["-c", *job["arguments"]]
exec(job["code"], {"__name__": "__main__"})
"""

#: What a replica imports whose model the reference engine or ONNX Runtime computes.
WARM: Final = """
import contextlib
import importlib_metadata, numpy, packaging.requirements, tokenizers
import llmasos.compose.replicas.local_child, llmasos.compose.replicas.worker, llmasos_hookspecs.testing
with contextlib.suppress(ImportError):
    import onnx
"""


class ForkedChild:
    """The part of ``subprocess.Popen`` that the placement needs of its children."""

    def __init__(self, told: int) -> None:
        self._told: Final = os.fdopen(told, "rb", buffering=0)
        self.pid: Final = int(self._told.readline())
        self.returncode: int | None = None

    def kill(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode


class ForkedSeats:
    """Starts such children; stands in for the module ``subprocess`` where the placement starts them."""

    DEVNULL: Final = subprocess.DEVNULL

    def __init__(self, root: Path) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno()), WARM],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=root,
            )

    def __enter__(self) -> ForkedSeats:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._control.close()
        self._process.wait(60)

    def Popen(self, command: Sequence[str], *, pass_fds: Sequence[int], stdin: int, stdout: int) -> ForkedChild:
        assert command[:3] == [sys.executable, "-I", "-c"]
        assert stdin == stdout == self.DEVNULL
        job: dict[str, Any] = {
            "code": command[3],
            "arguments": list(command[4:]),
            "descriptors": list(pass_fds),
            "folder": os.getcwd(),
            "env": dict(os.environ),
        }
        mine, told = os.pipe()
        try:
            socket.send_fds(self._control, [json.dumps(job).encode()], [told, *pass_fds])
        finally:
            os.close(told)
        return ForkedChild(mine)
