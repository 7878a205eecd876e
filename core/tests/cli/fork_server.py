"""Processes that have imported their program already, which takes far longer than most of what tests have it do."""

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
from typing import Any, Final

from core.tests.forked_children import WARM_LOADING

#: Imports what all jobs need. Then it reads one job a line from the socket, forks, and becomes the program in the child, which ends as one
#: of its own does, but that its objects are not taken apart one by one: to write to all the memory that it shares with its parent would
#: take five times as long as the fork. The parent answers with the child's process id, and, once it has ended, with its exit code.
PROGRAM: Final = """
import atexit, gc, json, os, socket, sys, threading

exec(sys.argv[2], {"__name__": "warm"})
gc.collect()
gc.freeze()
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
        os.environ.clear()
        os.environ.update(job["env"])
        os.chdir(job["folder"])
        sys.path[1:1] = job["path"]
        sys.argv = ["-c", *job["arguments"]]
        break
    control.sendall(b"%d\\n" % child)
    control.sendall(b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    sys.exit()
status = 0
try:
    exec(job["code"])
except SystemExit as stop:
    if stop.code is not None and not isinstance(stop.code, int):
        raise
    status = stop.code or 0
threading._shutdown()
atexit._run_exitfuncs()
for stream in (sys.stdout, sys.stderr):
    try:
        stream.flush()
    except OSError:
        status = 120
os._exit(status)
"""

#: The command line.
LLMASOS: Final = "from llmasos.cli import main; main()"

#: Has one command of it fail, for what it imports and makes once a process, and makes and imports what prompts and the kernels need.
WARM_LLMASOS: Final = (
    WARM_LOADING
    + """
import contextlib, io
from llmasos.cli import invoke

with contextlib.redirect_stderr(io.StringIO()):
    invoke(["run", "x", "--model", "no such model", "--json"])
with contextlib.suppress(ImportError):
    import llmasos_kernels_cpu.operators
with contextlib.suppress(ImportError):
    from llmasos_chat_templates.template import ChatTemplate

    assert ChatTemplate("{% if x %}{{ x }}{% endif %}", {}, "warm").variables  # the lexer's patterns are compiled for the first template
"""
)

#: The plugins may be others than a moment ago.
RESCAN: Final = "from llmasos.system.discovery import registry; registry().rescan()\n"

#: pytest, as its command runs it.
PYTEST: Final = RESCAN + "import sys, pytest; sys.exit(pytest.main())"

#: With the tables of characters of which hypothesis makes texts, and the constants that it finds in the source of all modules outside of
#: site-packages: it keeps both in a folder, and takes seconds in one that is new to it, so that they are read from the checkout's.
WARM_PYTEST: Final = f"""
import contextlib, io
import hypothesis.strategies, pytest
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.internal.charmap import charmap, intervals_from_codec
from hypothesis.internal.conjecture.providers import _get_local_constants

set_hypothesis_home_dir({str(Path(__file__).parents[3] / ".hypothesis")!r})
charmap()
intervals_from_codec("utf-8")
_get_local_constants()
set_hypothesis_home_dir(None)
with contextlib.redirect_stdout(io.StringIO()):
    pytest.main(["--version"])
"""


def with_plugins(folder: Path, code: str = LLMASOS) -> dict[str, Any]:
    """How to run a program that finds the plugins of ``folder / "site"``, in this process's environment."""
    return {"code": RESCAN + code, "path": [str(folder / "site")], "env": {**os.environ, "PYTHONUTF8": "1"}}


class ForkServer:
    """Runs programs of Python, each in a process of its own.

    Args:
        env: the environment of the jobs that say nothing of theirs.
        root: an empty folder for what they read and write.
        warm: the code whose imports they share.
        python: the interpreter.
    """

    def __init__(self, env: Mapping[str, str], root: Path, warm: str = WARM_LLMASOS, python: str | Path = sys.executable) -> None:
        self.env: Final = dict(env)
        self._python = str(python)
        self._streams = [root / name for name in ("stdin", "stdout", "stderr")]
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [self._python, "-c", PROGRAM, str(theirs.fileno()), warm],
                env=self.env,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=root,
            )
        self._answers = self._control.makefile("rb", buffering=0)  # what it had read ahead, ``select`` would not tell of

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._answers.close()
        self._control.close()
        self._process.wait(60)

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        given: bytes = b"",
        seconds: float = 300,
        *,
        code: str = LLMASOS,
        env: Mapping[str, str] | None = None,
        path: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[bytes]:
        """As ``subprocess.run`` does of ``python -c code arguments``, with ``given`` on standard input.

        Args:
            env: the whole environment, where it is another. What Python reads when it starts needs a process that is started with it.
            path: folders to import from, for it and the programs that it starts.
        """
        env = self.env if env is None else env
        started_with = any(name.startswith("PYTHON") and env.get(name) != self.env.get(name) for name in {*env, *self.env})
        if path:
            env = {**env, "PYTHONPATH": os.pathsep.join([*path, *filter(None, [env.get("PYTHONPATH")])])}
        if started_with:
            command = [self._python, "-c", code, *arguments]
            return subprocess.run(command, input=given, capture_output=True, cwd=folder, timeout=seconds, env=env, check=False)
        self._streams[0].write_bytes(given)
        output = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        flags = (os.O_RDONLY, output, output)
        job: dict[str, Any] = {
            "code": code,
            "arguments": list(arguments),
            "folder": str(folder),
            "env": dict(env),
            "path": list(path),
            "streams": [(str(stream), flag) for stream, flag in zip(self._streams, flags, strict=True)],
        }
        self._control.sendall(json.dumps(job).encode() + b"\n")
        child = int(self._answers.readline())
        if not select.select([self._control], [], [], seconds)[0]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            self._answers.readline()
            raise subprocess.TimeoutExpired(list(arguments), seconds)
        code_of_exit = int(self._answers.readline())
        return subprocess.CompletedProcess(list(arguments), code_of_exit, *(stream.read_bytes() for stream in self._streams[1:]))

    def said(self, *arguments: str, folder: Path, **how: Any) -> subprocess.CompletedProcess[str]:
        """The same, with what the program printed as text."""
        done = self.run(arguments, folder, **how)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
