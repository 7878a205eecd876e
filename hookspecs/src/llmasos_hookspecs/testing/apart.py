"""Runs a function in a plain child process, for contexts without core; of the limits only the clock's is enforced."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from llmasos_hookspecs.apart import ApartLimits, pack, result
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


def run_child(function: str, arguments: Sequence[Any], limits: ApartLimits) -> Any:
    """``Context.apart``; raises as that."""
    path = [place for place in sys.path if os.path.isabs(place)]
    try:
        call = pack([function, list(arguments)])
    except TypeError as error:
        raise PluginError(f"context.apart was called wrongly: {error}; this is a fault of the plugin.") from error
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CHILD.format(path=path)],
            input=call,
            capture_output=True,
            timeout=limits.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ApartError(f"it takes longer than {limits.seconds:g} seconds", "Timeout") from None
    return result(done.stdout[: limits.output])
