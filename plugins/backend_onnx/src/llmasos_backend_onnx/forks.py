"""Lets forked children exit without hanging.

onnxruntime's static destructors wait for threads that exist only in the parent (seen with 1.32: ``pthread_cond_destroy`` below ``exit``).
onnxruntime does not work in a forked child anyway, so the child skips its destructors.
"""

from __future__ import annotations

import contextlib
import ctypes
import os


def register() -> None:
    """Make every later forked child exit without C-level destructors; call it once, after importing onnxruntime."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_pass_over_destructors)


def _pass_over_destructors() -> None:
    # glibc's on_exit hands the exit status to its functions, and the last one registered runs first: so _exit ends the child with the
    # right status before any destructor. Python has run its own exit handlers and flushed its streams by then.
    with contextlib.suppress(AttributeError, OSError):  # not glibc: nothing to be done
        libc = ctypes.CDLL(None)
        libc.on_exit(libc._exit, None)
