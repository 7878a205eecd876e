from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from llmasos_engine.heap import trim_heap

# Half a gigabyte in blocks below malloc's threshold for mappings, with one block behind them that keeps the heap's end in use.
FREED = """
import gc, psutil
from llmasos_engine.heap import trim_heap
blocks = [bytearray(100_000) for _ in range(5_000)]
end = bytearray(100_000)
full = psutil.Process().memory_info().rss
del blocks
gc.collect()
free = psutil.Process().memory_info().rss
trim_heap()
print(full, free, psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_memory_freed_below_a_block_in_use_goes_back_to_the_system() -> None:
    full, free, trimmed = map(int, subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True).stdout.split())
    assert full - free < 100e6, "the heap's end was given back by free itself"
    assert full - trimmed > 400e6


def test_trimming_twice_is_harmless() -> None:
    trim_heap()
    trim_heap()


FROZEN = """
import gc
from llmasos_engine.heap import freeze_heap
before = len(gc.get_objects())
freeze_heap()
print(before, gc.get_freeze_count(), len(gc.get_objects()), gc.get_threshold()[0])
"""


def test_what_was_there_is_not_walked_again() -> None:
    before, frozen, walked, young = map(
        int, subprocess.run([sys.executable, "-c", FROZEN], check=True, capture_output=True, text=True).stdout.split()
    )
    assert frozen > 0.5 * before
    assert walked < 0.1 * before
    assert young == 10_000
