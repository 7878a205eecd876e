"""Returns freed heap memory to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def trim_heap() -> None:
    """Return the pages that glibc's allocator keeps after they were freed. By itself it returns only the end of its heap, so that one small
    block behind a step's large arrays keeps tens of megabytes. Takes some milliseconds; does nothing with other allocators."""
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
