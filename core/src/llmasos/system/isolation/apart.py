"""Runs a function of core on untrusted bytes in a short-lived child process with resource limits; plain data in and out."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from typing import Any, Final

import attrs

from llmasos.system.isolation.children import code_command

_MAIN: Final = "from llmasos.system.isolation.child import main; main()"

#: The environment variables of a child: the library path, and one compute thread, because threads reserve memory.
_KEPT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "LANG", "LC_ALL")
_SET: Final = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@attrs.frozen(kw_only=True)
class Limits:
    """The resource limits of a child.

    Attributes:
        memory: bytes of address space, the interpreter and its libraries (about 300 MB) included. Not enforced on macOS and Windows.
        cpu_seconds: of computing.
        seconds: of the clock.
        output: bytes of the answer, and of any file.
        files: open at once.
    """

    memory: int = 1 << 30
    cpu_seconds: int = 20
    seconds: float = 30.0
    output: int = 1 << 20
    files: int = 64


class ApartError(Exception):
    """The function failed, or broke a limit. ``kind``: the class of its error, or ``Timeout``, ``Killed``; ``sentence``: what it said."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence


def run_apart(function: str, data: bytes, *, limits: Limits | None = None, **arguments: Any) -> Any:
    """Call ``module:name`` with the bytes, and with keyword arguments that JSON can write, in a child of its own.

    The child has nothing of the working folder, of the environment's secrets or of the network (on Linux), and starts no program. The
    function returns plain data.

    Raises:
        ApartError: the function raised, or took more than it may.
    """
    limits = limits or Limits()
    head = json.dumps({"function": function, "arguments": arguments, "limits": attrs.asdict(limits)}).encode() + b"\n"
    # Files rather than pipes: neither side can hold the other up, and the size of the answer is a limit that the system enforces.
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as answer:
        source.writelines((head, data))
        source.seek(0)
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _SET
        process = subprocess.Popen(
            code_command(_MAIN), stdin=source, stdout=answer, stderr=subprocess.DEVNULL, cwd=os.path.abspath(os.sep), env=environment
        )
        try:
            process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            raise ApartError("Timeout", f"it takes longer than {limits.seconds:g} seconds") from None
        finally:
            process.kill()
            process.wait()
        answer.seek(0)
        try:
            kind, value = json.loads(answer.read(limits.output))
        except (ValueError, TypeError, RecursionError):  # it came to no answer, or to more than one
            kind, value = "Killed", "it takes more time or memory than it may, or crashes the library that reads it"
    if kind:
        raise ApartError(kind, value)
    return value
