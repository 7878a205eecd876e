"""Loading leaves no compute threads behind that would slow down those of the runtime's thread."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from llmasos_hookspecs import Engine, EngineLimits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")


def count() -> int:
    """Threads of native code: those of Python come and go as they do."""
    return len(os.listdir("/proc/self/task")) - threading.active_count()


def test_the_pool_of_the_loading_thread_ends(
    saved: Callable[[str], tuple[PreTrainedModel, Path]], load_engine: Callable[..., Engine]
) -> None:
    """Threads that OpenMP keeps for the thread that loads are gone when the engine is there."""
    folder = saved("llama")[1]
    torch.set_num_threads(2)
    try:
        torch.ones(2**22).sum()
        busy = count()
        load_engine(folder, limits=EngineLimits(threads=2))
        deadline = time.monotonic() + 120  # threads that were told to end may take a moment
        while count() >= busy and time.monotonic() < deadline:
            os.sched_yield()
        assert count() < busy
        torch.ones(2**22).sum()
        assert count() == busy, "The next computation has its threads again."
    finally:
        torch.set_num_threads(1)
