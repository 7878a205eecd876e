"""Keys in memory: a data key that stays out of swap and core dumps as far as the system allows, and what is derived from it."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
_PR_SET_DUMPABLE: Final = 4
_MADV_DONTDUMP: Final = 16


class DataKey:
    """The random key of one sealed model, in a page of its own that is locked in memory where the user's limits allow (``ulimit -l``).

    The libraries that encrypt with a key that is derived from it hold that one in memory of their own, which is not locked.
    """

    def __init__(self, secret: bytes) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._page[:KEY_BYTES] = secret
        if sys.platform == "linux":
            held = ctypes.c_char.from_buffer(self._page)
            library = ctypes.CDLL(None)
            library.mlock(ctypes.c_void_p(ctypes.addressof(held)), ctypes.c_size_t(mmap.PAGESIZE))
            with contextlib.suppress(OSError):  # another kernel than Linux's own
                self._page.madvise(_MADV_DONTDUMP)

    @classmethod
    def new(cls) -> DataKey:
        """A random key."""
        return cls(os.urandom(KEY_BYTES))

    @property
    def secret(self) -> bytes:
        """The key itself, for those who wrap it."""
        return self._page[:KEY_BYTES]

    def derived(self, salt: bytes, purpose: str) -> bytes:
        """A key of 32 bytes for one purpose (HKDF-SHA256, RFC 5869)."""
        info = b"llmasos seal 1\0" + purpose.encode()
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(self.secret)


def forbid_core_dumps() -> None:
    """No core dump of this process, which would hold weights and keys: neither a file nor what a program collects."""
    if os.name != "posix":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, most))  # inherited by the processes that this one starts
    if sys.platform == "linux":
        library: Any = ctypes.CDLL(None)
        library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
