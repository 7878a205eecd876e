"""Isolated child interpreters as forks of a process that has imported what they need, which takes longer than most of them run."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

#: Forks for each job that comes in, and becomes its program in the child. With a job come descriptors: of a pipe for the child's process id
#: and, once it has ended, its exit code; of its three streams; and of what its arguments name by numbers, which are others in the child.
#: A child whose end is not watched leaves its objects as they are: to take them apart, it would write to all the memory that it shares.
PROGRAM: Final = """
import atexit, gc, json, os, select, signal, socket, sys, threading

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
    data, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 16)
    if not data:
        sys.exit()
    job = json.loads(data)
    child = os.fork()
    if not child:
        break
    running[child] = descriptors[0]
    os.write(descriptors[0], b"%d\\n" % child)
    for number in descriptors[1:]:
        os.close(number)
signal.set_wakeup_fd(-1)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
for number in (descriptors[0], ended, wake, *running.values()):
    os.close(number)
control.close()
for number, stream in enumerate(descriptors[1:4]):
    os.dup2(stream, number)
    os.close(stream)
sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)
for wanted, number in zip(job["descriptors"], descriptors[4:]):
    job["arguments"][job["arguments"].index(str(wanted))] = str(number)
os.environ.clear()
os.environ.update(job["env"])
os.chdir(job["folder"])
sys.argv = ["-c", *job["arguments"]]
if "tempfile" in sys.modules:
    sys.modules["tempfile"].tempdir = None  # of another environment
if job["watched"]:
    exec(job["code"])
    sys.exit()
ended = None
try:
    exec(job["code"])
except SystemExit as stop:
    ended = stop.code
if ended is not None and not isinstance(ended, int):
    sys.exit(ended)
threading._shutdown()
atexit._run_exitfuncs()
for stream in (sys.stdout, sys.stderr):
    try:
        stream.flush()
    except (OSError, ValueError):
        ended = 120
os._exit(ended or 0)
"""

#: Imports what a load on ONNX Runtime needs and a fork may take over, where it is installed; ONNX Runtime itself has threads.
WARM_LOADING: Final = """
import contextlib
for name in (
    "numpy", "psutil", "tokenizers", "onnx", "llmasos_decoder_kit.artifact", "llmasos_decoder_kit.kv_cache",
    "llmasos_decoder_kit.onnx_operators", "llmasos_tokenizing.tokenizer_json",
):
    with contextlib.suppress(ImportError):
        __import__(name)
"""

#: What children import that describe components, read tokenizers, or serve a model of the reference engine or ONNX Runtime.
WARM: Final = f"""
import importlib_metadata, packaging.requirements
import llmasos.compose.replicas.local_child, llmasos.compose.replicas.worker, llmasos.system.descriptions
import llmasos_hookspecs.testing, llmasos_isolation.child, llmasos_isolation.landlock, llmasos_isolation.seccomp
{WARM_LOADING}"""


#: Python's own, as tests have these children started in its place.
_POPEN: Final = subprocess.Popen


class ForkedChild:
    """The part of ``subprocess.Popen`` that is needed of these children."""

    stdin: IO[Any] | None = None
    stdout: IO[Any] | None = None
    stderr: IO[Any] | None = None

    def __init__(self, command: Sequence[str], told: int) -> None:
        self.args: Final = command
        self._told: Final = os.fdopen(told, "rb", buffering=0)
        self.pid: Final = int(self._told.readline())
        self._waiting: Final = threading.Lock()
        self.returncode: int | None = None

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        with self._waiting:
            if self.returncode is None:
                if not select.select([self._told], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
                self.returncode = int(self._told.readline())
                self._told.close()
            return self.returncode

    def communicate(self, given: str = "", timeout: float | None = None) -> tuple[str, None]:
        """Its standard output to the end, where it has one, once it got the rest of its standard input; and it has ended."""
        said = ""
        with contextlib.suppress(BrokenPipeError), contextlib.ExitStack() as streams:
            for stream in (self.stdin, self.stdout):
                if stream is not None:
                    streams.enter_context(stream)
            if self.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    self.stdin.write(given)
                    self.stdin.close()
            if self.stdout is not None:
                said = self.stdout.read()
        self.wait(timeout)
        return said, None


class ForkedChildren:
    """Starts them; stands in for the module ``subprocess`` where the runtime starts interpreters by ``llmasos_isolation.code_command``.

    Args:
        root: a working folder for the process that forks, which is started for the first child.
        flags: those of the interpreter in the commands. The process that forks has them too, but ``-I``.
        warm: the code whose imports they share.
        watched: whether tests look at how they end, which is then as that of any interpreter.
    """

    DEVNULL: Final = subprocess.DEVNULL
    PIPE: Final = subprocess.PIPE
    STDOUT: Final = subprocess.STDOUT
    TimeoutExpired: Final = subprocess.TimeoutExpired

    def __init__(self, root: Path, *flags: str, warm: str = WARM, watched: bool = False) -> None:
        self._root: Final = root
        self._watched: Final = watched
        self._warm: Final = warm
        self._head: Final = [sys.executable, *(flags or ("-I",))]
        self._starting: Final = threading.Lock()
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ForkedChildren:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._theirs.close()
        self._control.close()
        if self._process is not None:
            self._process.wait(60)

    def Popen(
        self,
        command: Sequence[str],
        *,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> ForkedChild | subprocess.Popen[bytes]:
        """As ``subprocess.Popen``: of ``python FLAGS -c CODE ARGUMENTS`` or ``python FLAGS -m MODULE ARGUMENTS`` a fork."""
        if list(command[: len(self._head)]) != self._head:
            return _POPEN(command, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds, cwd=cwd, env=env)
        way, code, *arguments = command[len(self._head) :]
        if way == "-m":
            code = f"import runpy; runpy.run_module({code!r}, run_name='__main__', alter_sys=True)"
        with self._starting:
            if self._process is None:
                self._process = self._start()
        job: dict[str, Any] = {
            "code": code,
            "arguments": arguments,
            "descriptors": list(pass_fds),
            "folder": cwd or os.getcwd(),
            "env": dict(os.environ if env is None else env),
            "watched": self._watched,
        }
        mine, told = os.pipe()
        nowhere = os.open(os.devnull, os.O_RDWR)
        closing = [told, nowhere]
        pipes: dict[str, IO[bytes]] = {}
        try:
            numbers: dict[Any, int] = {None: 2, self.DEVNULL: nowhere}
            streams: list[int] = []
            for name, each in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
                if each == self.PIPE:
                    read, write = os.pipe()
                    pipes[name] = os.fdopen(write, "wb") if name == "stdin" else os.fdopen(read, "rb")
                    streams.append(read if name == "stdin" else write)
                    closing.append(streams[-1])
                else:
                    streams.append(numbers[each] if each in numbers else getattr(each, "fileno", lambda each=each: each)())
                numbers[self.STDOUT] = streams[-1]
            socket.send_fds(self._control, [json.dumps(job).encode()], [told, *streams, *pass_fds])
        finally:
            for number in closing:
                os.close(number)
        child = ForkedChild(command, mine)
        child.stdin, child.stdout, child.stderr = (pipes.get(name) for name in ("stdin", "stdout", "stderr"))
        return child

    def python(self, code: str, *arguments: str | Path) -> ForkedChild:
        """A child that runs ``code``, with pipes for texts to its standard input and from its standard output."""
        (stdin, given), (said, stdout) = os.pipe(), os.pipe()
        try:
            child = self.Popen([*self._head, "-c", code, *map(str, arguments)], stdin=stdin, stdout=stdout)
        finally:
            os.close(stdin)
            os.close(stdout)
        assert isinstance(child, ForkedChild)
        child.stdin, child.stdout = os.fdopen(given, "w"), os.fdopen(said)
        return child

    def _start(self) -> subprocess.Popen[bytes]:
        python, *flags = self._head
        with self._theirs as control:
            return _POPEN(
                [python, *(each for each in flags if each != "-I"), "-c", PROGRAM, str(control.fileno()), self._warm],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[control.fileno()],
                cwd=self._root,
            )
