"""A forked child that ends without hanging.

OpenVINO's destructors wait for threads that only the parent has (seen with 2026.4: ``pthread_cond_destroy`` below ``~CPUStreamsExecutor``).
Nothing of OpenVINO works in a child anyway, so there its objects are never freed, and C-level destructors are passed over.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from typing import Any, Final

#: Objects that hold something of OpenVINO's.
_HOLDERS: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def never_free_in_children(holder: object) -> None:
    """Every child that is forked while ``holder`` lives keeps it for ever."""
    _HOLDERS.add(holder)


def _in_child() -> None:
    for holder in list(_HOLDERS):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(holder))
    # glibc's on_exit hands the exit status to its functions, and the last one registered runs first: so _exit ends the child with the
    # right status before any destructor. Python has run its own exit handlers and flushed its streams by then.
    with contextlib.suppress(AttributeError, OSError):  # not glibc: nothing to be done
        libc = ctypes.CDLL(None)
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
