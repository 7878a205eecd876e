"""The other side of ``run_apart``: bounds itself, then calls the named function. Imports as little as it can."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Read the call from standard input and write the answer to standard output, both regular files."""
    with os.fdopen(os.dup(0), "rb") as source:
        call = json.loads(source.readline())
        _bound(call["limits"])
        from llmasos_hookspecs.apart import answer, named, unpack

        function, arguments = named(call["function"]), unpack(source.read())
    with os.fdopen(os.dup(1), "wb") as out:
        # What a library prints is not the answer.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        _close_doors()
        out.write(answer(function, arguments))
    # Exits without finalizers, which could crash after a library read malformed input.
    os._exit(0)


def _bound(limits: dict[str, int]) -> None:
    try:
        import resource
    except ImportError:  # Windows: time, which the parent watches, and what is written, which it cuts
        return
    wanted = {
        "RLIMIT_AS": limits["memory"],
        "RLIMIT_CPU": limits["cpu_seconds"],
        "RLIMIT_FSIZE": limits["output"],
        "RLIMIT_NOFILE": limits["files"],
        "RLIMIT_CORE": 0,
    }
    for name, value in wanted.items():
        _set_limit(resource, name, value)


def _set_limit(resource: Any, name: str, value: int) -> None:
    number = getattr(resource, name, None)
    if number is None:
        return
    _, most = resource.getrlimit(number)
    bound = value if most == resource.RLIM_INFINITY else min(value, most)
    try:
        resource.setrlimit(number, (bound, bound))
    except (ValueError, OSError):  # macOS refuses some; the other limits and the parent's clock stay
        return


def _close_doors() -> None:
    """No new process, program or connection, and no file to write, once all modules are imported."""
    try:
        import resource
    except ImportError:
        return
    _set_limit(resource, "RLIMIT_NPROC", 0)
    if sys.platform == "linux":
        from llmasos_isolation.landlock import refuse_writing
        from llmasos_isolation.seccomp import refuse_processes_and_sockets

        refuse_writing()
        refuse_processes_and_sockets()
