"""The hardware layer: what this process may use of the machine."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos.system import cgroup

#: Sequences that a batch runs at once, and tokens that it counts with for each.
_LEAST_SEQUENCES: Final = 8
_MOST_SEQUENCES: Final = 64
_ROW_TOKENS: Final = 2048

#: Keys of /proc/cpuinfo that tell processors apart, on x86 and ARM.
_TELLING: Final = ("model name", "flags", "CPU implementer", "CPU part", "Features")


@attrs.frozen(kw_only=True)
class Cores:
    """Cores of the machine, physical and logical; ``usable`` is how many cores' worth of time affinity and control groups leave to this
    process, which may be a fraction."""

    physical: int
    logical: int
    usable: float


@attrs.frozen(kw_only=True)
class Memory:
    """Main memory in bytes. ``limit`` is a control group's, None where there is none; ``available`` is what can still be had."""

    total: int
    available: int
    limit: int | None = None


def cores(root: Path = Path("/")) -> Cores:
    """The cores that this process may use. ``root`` is where the file system begins, for tests."""
    psutil = _psutil()
    logical = psutil.cpu_count() or os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    usable = min(float(affinity), cgroup.limits(root).cpus or math.inf)
    return Cores(physical=psutil.cpu_count(logical=False) or logical, logical=logical, usable=usable)


def memory(root: Path = Path("/")) -> Memory:
    """The memory that this process may use; ``root`` as for ``cores``."""
    found, limits = _psutil().virtual_memory(), cgroup.limits(root)
    available = int(found.available)
    if limits.memory is not None:
        available = min(available, max(0, limits.memory - (limits.memory_used or 0)))
    return Memory(total=int(found.total), available=available, limit=limits.memory)


def processor(root: Path = Path("/")) -> str:
    """What tells this processor from others in how fast it computes: its model, its instruction sets and the usable cores; ``root`` as for
    ``cores``."""
    try:
        lines = (root / "proc" / "cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    facts = dict(reversed([line.split(":", 1) for line in lines if line.startswith(_TELLING) and ":" in line]))
    told = [f"{key.strip()}:{value.strip()}" for key, value in sorted(facts.items())] or [platform.processor()]
    return "; ".join([platform.machine(), f"{cores(root).usable:g} cores", *told])


def kv_room(available: int, *, weight_bytes: int, limit: int | None) -> int:
    """Bytes for the KV cache of all sequences together: half of what the weights leave of the ``available`` bytes, and of the ``limit``
    where there is one."""
    return max(0, min(available, limit or available) - weight_bytes) // 2


def batch_sequences(room: int, kv_bytes_per_token: int) -> int:
    """How many sequences a batch should run at once: as many as ``room`` bytes hold the KV of with 2,048 tokens each, from 8 to 64. Each
    is slower than alone, and the batch is done sooner."""
    return max(_LEAST_SEQUENCES, min(_MOST_SEQUENCES, room // max(1, _ROW_TOKENS * kv_bytes_per_token)))


def _psutil() -> Any:
    """psutil, which has no type hints, and is imported only when the machine is looked at."""
    import psutil

    return psutil
