"""Memory that the process has freed, back to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def trim_heap() -> None:
    """Give back the pages that C's allocator keeps after they were freed: it returns only what lies at its heap's end, so that one small
    block behind a step's large arrays holds tens of megabytes. Takes some milliseconds; does nothing where the allocator is not glibc's."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another allocator, or Windows, where None names no library
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    found: Callable[[int], int] = trim
    return found
