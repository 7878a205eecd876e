"""Memory for keys and values that the system gives as it is written."""

from __future__ import annotations

import mmap


def reserve(size: int) -> mmap.mmap:
    """``size`` bytes of address space, all 0, which take memory page by page as they are written.

    Raises ``OSError`` or ``MemoryError`` where there is not so much address space.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # A huge page would commit thousands of tokens with the first.
        area.madvise(mmap.MADV_NOHUGEPAGE)
    return area
