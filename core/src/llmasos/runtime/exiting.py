"""Which threads the end of the program leaves behind."""

from __future__ import annotations

import threading

from llmasos_hookspecs import LLMasOSError, ModelClosed

_exiting = False


def begin_exit() -> None:
    """From now on models close because the interpreter exits: beside the main thread only daemon threads are left."""
    global _exiting
    _exiting = True


def left_behind(error: LLMasOSError) -> bool:
    """Whether ``error`` tells a daemon thread of an ended program that its model is closed.

    Such a thread ends without it: nobody is left to mend anything, and the traceback that would be printed tells of no fault.
    """
    return _exiting and isinstance(error, ModelClosed) and threading.current_thread().daemon
