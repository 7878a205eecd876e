"""A child that reads untrusted bytes can write no file: Linux's Landlock (Documentation/userspace-api/landlock.rst) through ctypes.

Where the kernel has none, nothing happens: the limits of ``child`` hold without it. Files that are open already stay writable.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from typing import Final

# The numbers of these calls are the same on all machines.
_CREATE_RULESET: Final = 444
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
#: Opening for writing; removing folders and files; making a character device, folder, file, socket, pipe, block device or link.
_WRITING: Final = (1 << 1) | sum(1 << bit for bit in range(4, 13))
#: The version from which on each of these is known: moving to another folder, and cutting.
_LATER: Final = {2: 1 << 13, 3: 1 << 14}


def has_landlock() -> bool:
    """Whether this system can refuse writing."""
    return sys.platform == "linux" and _version(ctypes.CDLL(None)) > 0


def refuse_writing() -> bool:
    """From now on no file system object can be opened for writing, made, moved or removed by this process; False where that cannot be
    had."""
    library = ctypes.CDLL(None)
    version = _version(library)
    if version < 1:
        return False
    # struct landlock_ruleset_attr, its first field: what needs a rule from now on; and no rule is made.
    handled = struct.pack("Q", _WRITING | sum(bit for since, bit in _LATER.items() if version >= since))
    ruleset = library.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    if ruleset < 0:
        return False
    try:
        if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            return False
        return not library.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _version(library: ctypes.CDLL) -> int:
    return int(library.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION))
