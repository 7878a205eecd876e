"""Daemon threads at the exit of the interpreter."""

from __future__ import annotations

import threading

from llmasos_hookspecs import LLMasOSError, ModelClosed

_exiting = False


def begin_exit() -> None:
    """Record that models close from now on because the interpreter exits, when only daemon threads run beside the main thread."""
    global _exiting
    _exiting = True


def left_behind(error: LLMasOSError) -> bool:
    """Whether ``error`` says to a daemon thread, after the program has ended, that its model is closed.

    Such a thread ends silently, because the traceback that Python would print reports no fault.
    """
    return _exiting and isinstance(error, ModelClosed) and threading.current_thread().daemon
