"""Runs a function on untrusted bytes in a short-lived child process with resource limits; plain data in and out."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from typing import IO, Any, Final

import attrs

from llmasos_hookspecs import ApartError, ApartLimits
from llmasos_hookspecs.apart import pack, result
from llmasos_isolation.children import code_command

_MAIN: Final = "from llmasos_isolation.child import main; main()"

#: The environment variables of a child: the library path, and one compute thread, because threads reserve memory.
_KEPT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "LANG", "LC_ALL")
_SET: Final = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def run_apart(function: str, *arguments: Any, limits: ApartLimits | None = None) -> Any:
    """Call ``module:name`` with plain data (``llmasos_hookspecs.apart.pack``) in a child of its own; the function returns plain data.

    The child has nothing of the working folder and of the environment's secrets. On Linux it can write no file, make no connection and
    start no program once the function's module is imported.

    Raises:
        LLMasOSError: of the class that the function raised, with its sentence.
        ApartError: the function raised another error, or took more than it may.
        TypeError: an argument is no plain data.
        OSError: no process can be started.
    """
    limits = limits or ApartLimits()
    head = json.dumps({"function": function, "limits": attrs.asdict(limits)}).encode() + b"\n"
    # Files rather than pipes: neither side can hold the other up, and the size of the answer is a limit that the system enforces.
    with _file("call") as source, _file("result") as answer:
        source.writelines((head, pack(arguments)))
        source.seek(0)
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _SET
        process = subprocess.Popen(
            code_command(_MAIN), stdin=source, stdout=answer, stderr=subprocess.DEVNULL, cwd=os.path.abspath(os.sep), env=environment
        )
        try:
            process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            raise ApartError(f"it takes longer than {limits.seconds:g} seconds", "Timeout") from None
        finally:
            process.kill()
            process.wait()
        answer.seek(0)
        return result(answer.read(limits.output))


def _file(name: str) -> IO[bytes]:
    """A new file of no folder: in memory where the system has such files, because the bytes may be of an encrypted model."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create(name), "w+b")
    return tempfile.TemporaryFile()
