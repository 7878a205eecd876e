"""Runs a function in a child process, for contexts without core; of the limits only the clock's is enforced.

To start Python and import the function's module takes longer than most of these functions do, and a loader's tests call one for each file
that they spoil. So on Linux each call runs in a fork of a process that has imported the module, and done nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any, Final

import attrs

from llmasos_hookspecs.apart import ApartLimits, answer, named, pack, result, unpack
from llmasos_hookspecs.errors import ApartError, PluginError

_CHILD: Final = """
import os, sys
sys.path[:] = {path!r}
from llmasos_hookspecs.apart import answer, named, unpack
function, arguments = unpack(sys.stdin.buffer.read())
with os.fdopen(os.dup(1), "wb") as out:
    os.dup2(2, 1)  # what a library prints is not the answer
    out.write(answer(named(function), arguments))
"""

_FORKING: Final = """
import sys
sys.path[:] = {path!r}
from llmasos_hookspecs.testing.apart import fork_for_calls
fork_for_calls({module!r})
"""

#: Environment variables of the process that forks, as core's children have them: libraries start no compute threads.
_ONE_THREAD: Final = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")

#: What a process that forks says first: whether it can. A fork of a process with threads might wait for a lock that one of them holds.
_CAN, _CANNOT = b"+", b"-"
#: Bytes of the length that stands before each answer; the greatest one says that there is none in time.
_LENGTH: Final = 8
_LATE: Final = (1 << 8 * _LENGTH) - 1


def run_child(function: str, arguments: Sequence[Any], limits: ApartLimits) -> Any:
    """``Context.apart``; raises as that."""
    try:
        call = pack([function, list(arguments)])
    except TypeError as error:
        raise PluginError(f"context.apart was called wrongly: {error}; this is a fault of the plugin.") from error
    try:
        data = _in_fork(function.partition(":")[0], call, limits.seconds) if sys.platform == "linux" else None
        if data is None:
            data = subprocess.run(_command(_CHILD), input=call, capture_output=True, timeout=limits.seconds, check=False).stdout
    except (TimeoutError, subprocess.TimeoutExpired):
        raise ApartError(f"it takes longer than {limits.seconds:g} seconds", "Timeout") from None
    return result(data[: limits.output])


def _path() -> list[str]:
    return [place for place in sys.path if os.path.isabs(place)]


def _surroundings() -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}, **_ONE_THREAD}


def _command(code: str, **values: Any) -> list[str]:
    return [sys.executable, "-I", "-c", code.format(path=_path(), **values)]


@attrs.frozen(eq=False)
class _Forking:
    """A process that has imported a module and runs each call in a fork; ``made_for`` says for what, and in which surroundings."""

    made_for: tuple[Any, ...]
    process: subprocess.Popen[bytes]
    into: IO[bytes]
    out: IO[bytes]
    can: bool

    @classmethod
    def start(cls, module: str, made_for: tuple[Any, ...], seconds: float) -> _Forking:
        process = subprocess.Popen(
            _command(_FORKING, module=module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_surroundings(),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        ready = _readable(process.stdout, seconds)
        if not ready:
            process.kill()
        said = process.stdout.read(1)
        found = cls(made_for, process, process.stdin, process.stdout, said != _CANNOT)
        if not ready:
            found.end()
            raise TimeoutError
        return found

    def run(self, call: bytes, seconds: float) -> bytes:
        """The answer to a call, or nothing. Raises ``TimeoutError``."""
        with contextlib.suppress(BrokenPipeError):  # importing the module ended the process
            self.into.write(json.dumps([os.getcwd(), _path(), _surroundings(), seconds, len(call)]).encode() + b"\n" + call)
            self.into.flush()
        length = int.from_bytes(self.out.read(_LENGTH), "big")
        if length == _LATE:
            raise TimeoutError
        return self.out.read(length)

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.into.close()
        self.process.wait()
        self.out.close()


#: One for the functions of plugins, as tests of one plugin follow one another, and a framework takes memory; and, under True, one for those
#: of this module, which has imported no plugin, so that it serves all of them.
_forking: Final[dict[bool, _Forking]] = {}
_one_call = threading.Lock()


def _in_fork(module: str, call: bytes, seconds: float) -> bytes | None:
    """The answer to a call, from a fork of a process that has imported the module; None where that cannot be had."""
    own = module == __name__
    made_for: tuple[Any, ...] = (os.getpid(), module)
    if not own:  # what a plugin's module imported, and how, may depend on them
        made_for += (tuple(sys.path), tuple(sorted(_surroundings().items())))
    with _one_call:
        forking = _forking.get(own)
        if forking is None or forking.made_for != made_for or forking.process.poll() is not None:
            _end_forking(own)
            forking = _forking[own] = _Forking.start(module, made_for, seconds)
        return forking.run(call, seconds) if forking.can else None


@atexit.register
def _end_all() -> None:
    for own in list(_forking):
        _end_forking(own)


def _end_forking(own: bool) -> None:
    ended = _forking.pop(own, None)
    if ended is not None and ended.made_for[0] == os.getpid():
        ended.end()


def imported_with(name: str) -> list[str]:
    """The modules that there are once a plugin's module was imported and described itself; for a child process that has imported none."""
    importlib.import_module(name).llmasos_component()
    return list(sys.modules)


def fork_for_calls(module: str) -> None:
    """In the process that forks: import the module, then answer the calls that come in, until there are no more."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # what a library prints is not the answer
        os.dup2(nowhere, number)
    with contextlib.suppress(BaseException):  # each call fails at it again, and says so
        importlib.import_module(module)
    answers.write(_CAN if len(os.listdir("/proc/self/task")) == 1 else _CANNOT)
    answers.flush()
    while line := calls.readline():
        folder, path, surroundings, seconds, size = json.loads(line)
        call = calls.read(size)
        source, target = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(source)
            os.chdir(folder)
            sys.path[:] = path
            os.environ.clear()
            os.environ.update(surroundings)
            function, arguments = unpack(call)
            with os.fdopen(target, "wb") as file:
                file.write(answer(named(function), arguments))
            os._exit(0)  # without finalizers, as many a library's do not know of the fork
        os.close(target)
        with os.fdopen(source, "rb", buffering=0) as file:
            found = _all(file, time.monotonic() + seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        answers.write((_LATE if found is None else len(found)).to_bytes(_LENGTH, "big") + (found or b""))
        answers.flush()


def _readable(file: IO[bytes], seconds: float) -> bool:
    """Wait until there is something to read of a pipe, or its end; False where there is not in time."""
    waiting = select.poll()
    waiting.register(file, select.POLLIN)
    return bool(waiting.poll(max(0.0, 1000 * seconds)))


def _all(file: IO[bytes], deadline: float) -> bytes | None:
    """What is written to a pipe until it is closed; None where that takes longer than to ``deadline``."""
    found = b""
    while _readable(file, deadline - time.monotonic()):
        if not (part := file.read(1 << 20)):
            return found
        found += part
    return None
