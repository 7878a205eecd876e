"""Processes that have imported the command line already, which takes far longer than most commands."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

#: Has one command fail, for what it imports, and imports what a loader needs and a fork may take over (ONNX Runtime has threads). Then it
#: reads one job a line from the socket, forks, and becomes the command in the child, which ends as a program of its own does; the parent
#: answers with the child's process id, and, once it has ended, with its exit code.
PROGRAM = """
import contextlib, io, json, os, socket, sys
from llmasos.cli import invoke, main

with contextlib.redirect_stderr(io.StringIO()):
    assert invoke(["run", "x", "--model", "no such model", "--json"]) == 1
import onnx

control = socket.socket(fileno=int(sys.argv[1]))
jobs = control.makefile("rb")
while job := jobs.readline():
    job = json.loads(job)
    child = os.fork()
    if not child:
        jobs.close()
        control.close()
        for number, (path, flags) in enumerate(job["streams"]):
            file = os.open(path, flags)
            os.dup2(file, number)
            os.close(file)
        os.chdir(job["folder"])
        sys.argv = ["-c", *job["arguments"]]
        break
    control.sendall(b"%d\\n" % child)
    control.sendall(b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    sys.exit()
main()
"""


class ForkServer:
    """Runs ``llmasos`` in one environment, each command in a process of its own.

    Args:
        env: the environment of all commands.
        root: an empty folder for what they read and write.
    """

    def __init__(self, env: Mapping[str, str], root: Path) -> None:
        self.env = dict(env)
        self._streams = [root / name for name in ("stdin", "stdout", "stderr")]
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno())], env=self.env, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        self._answers = self._control.makefile("rb")

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._answers.close()
        self._control.close()
        self._process.wait(60)

    def run(self, arguments: Sequence[str], folder: Path, given: bytes, seconds: float) -> subprocess.CompletedProcess[bytes]:
        """As ``subprocess.run`` does, with ``given`` on standard input."""
        self._streams[0].write_bytes(given)
        output = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        flags = (os.O_RDONLY, output, output)
        job: dict[str, Any] = {
            "arguments": list(arguments),
            "folder": str(folder),
            "streams": [(str(path), flag) for path, flag in zip(self._streams, flags, strict=True)],
        }
        self._control.sendall(json.dumps(job).encode() + b"\n")
        child = int(self._answers.readline())
        if not select.select([self._control], [], [], seconds)[0]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            self._answers.readline()
            raise subprocess.TimeoutExpired(list(arguments), seconds)
        code = int(self._answers.readline())
        return subprocess.CompletedProcess(list(arguments), code, *(path.read_bytes() for path in self._streams[1:]))
