"""The heap of a process that serves for long: freed memory goes back to the system, and what stays is not walked again and again."""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Callable
from typing import Final

#: Objects that may be made and not be freed before the garbage collector looks at them, in a process that serves.
_YOUNG: Final = 10_000


def trim_heap() -> None:
    """Return the pages that glibc's allocator keeps after they were freed. By itself it returns only the end of its heap, so that one small
    block behind a step's large arrays keeps tens of megabytes. Takes some milliseconds; does nothing with other allocators."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def freeze_heap() -> None:
    """Have the garbage collector leave alone all that there is now, and look for garbage seldom. For a process whose modules are imported,
    and that serves from now on: a full collection walks a hundred thousand objects, 30 to 90 ms in the middle of a step. What a request
    makes lives until it ends, so that collections after every 700 objects walk those of all requests again and again and find nothing.

    What is freed by its count of references still is; what becomes garbage in a cycle never is, so a model that may be unloaded is loaded
    after this.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another allocator, or Windows, where None names no library
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    found: Callable[[int], int] = trim
    return found
