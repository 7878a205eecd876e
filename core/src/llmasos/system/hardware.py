"""The hardware layer: what this machine is, what this process may use of it, and the defaults that follow.

Nothing here imports a framework; GPUs are found through their drivers' own files and tools.
"""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos.system import cgroup
from llmasos.system.folders import data_folder

#: Seconds that a driver's tool may take.
_TOOL_TIMEOUT: Final = 10.0

#: Sequences that a batch runs at once, and tokens that it counts with for each.
_LEAST_SEQUENCES: Final = 8
_MOST_SEQUENCES: Final = 64
_ROW_TOKENS: Final = 2048

#: Names of CPU features in /proc/cpuinfo -> names used here, x86 and ARM alike; only what kernels for language models use.
_FEATURES: Final[Mapping[str, str]] = {
    **{
        name: name
        for name in (
            "sse4_2",
            "avx",
            "f16c",
            "fma",
            "avx2",
            "avx_vnni",
            "avx512f",
            "avx512bw",
            "avx512vl",
            "avx512_vnni",
            "avx512_bf16",
            "avx512_fp16",
            "amx_tile",
            "amx_int8",
            "amx_bf16",
            "sve",
            "sve2",
            "i8mm",
            "bf16",
        )
    },
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fp16",
}


@attrs.frozen(kw_only=True)
class Cache:
    """One cache, as the first core sees it: ``kind`` is ``Data``, ``Instruction`` or ``Unified``, ``size`` in bytes."""

    level: int
    kind: str
    size: int
    shared_by: int


@attrs.frozen(kw_only=True)
class Cpu:
    """The processor.

    Attributes:
        model: its maker's name for it.
        architecture: ``x86_64``, ``aarch64``, ``arm64``.
        features: instruction sets that kernels use, of those in this module.
        physical_cores, logical_cores: of the machine.
        usable_cores: cores' worth of time that affinity and control groups leave to this process; may be a fraction.
        caches: from the nearest to the farthest.
    """

    model: str
    architecture: str
    features: tuple[str, ...]
    physical_cores: int
    logical_cores: int
    usable_cores: float
    caches: tuple[Cache, ...] = ()


@attrs.frozen(kw_only=True)
class Memory:
    """Main memory in bytes. ``limit`` is a control group's, None where there is none; ``available`` is what can still be had."""

    total: int
    available: int
    limit: int | None = None


@attrs.frozen(kw_only=True)
class Gpu:
    """A graphics processor; memory in bytes, 0 where the driver does not say."""

    name: str
    vendor: str
    memory: int = 0
    memory_free: int = 0
    driver: str = ""


@attrs.frozen(kw_only=True)
class Storage:
    """The disk that holds the model store, in bytes."""

    path: str
    total: int
    free: int


@attrs.frozen(kw_only=True)
class Hardware:
    """This machine, as this process may use it."""

    system: str
    cpu: Cpu
    memory: Memory
    gpus: tuple[Gpu, ...]
    storage: Storage

    def to_mapping(self) -> dict[str, Any]:
        """As plain data."""
        return attrs.asdict(self)


@attrs.frozen(kw_only=True)
class Bandwidth:
    """Memory bandwidth in bytes a second, measured with numpy; an upper bound on decoding is this over the bytes of the weights.

    ``read`` counts the bytes read, ``copy`` those read and written; both are lower bounds, because numpy's loops take time too.
    """

    threads: int
    read: float
    copy: float


@attrs.frozen(kw_only=True)
class Defaults:
    """Default limits: compute threads, sequences at once, tokens of a sequence."""

    threads: int
    max_sequences: int
    context_length: int


def probe(root: Path = Path("/")) -> Hardware:
    """Look at the machine, in a few milliseconds (a second where an NVIDIA driver has to be asked). ``root`` is where the file system
    begins, for tests."""
    psutil = _psutil()
    limits = cgroup.limits(root)
    logical = psutil.cpu_count() or os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    memory = psutil.virtual_memory()
    available = int(memory.available)
    if limits.memory is not None:
        available = min(available, max(0, limits.memory - (limits.memory_used or 0)))
    model, features = _cpu_info(root)
    return Hardware(
        system=f"{platform.system()} {platform.release()}",
        cpu=Cpu(
            model=model,
            architecture=platform.machine(),
            features=features,
            physical_cores=physical,
            logical_cores=logical,
            usable_cores=min(float(_affinity(logical)), limits.cpus or math.inf),
            caches=_caches(root),
        ),
        memory=Memory(total=int(memory.total), available=available, limit=limits.memory),
        gpus=_gpus(root),
        storage=_storage(),
    )


def defaults(
    hardware: Hardware,
    *,
    weight_bytes: int = 0,
    kv_bytes_per_token: int = 0,
    context_length: int | None = None,
    memory: int | None = None,
) -> Defaults:
    """Threads, batch and context for a model on this machine.

    Threads are the physical cores that the process may use: two threads on one core share its multipliers. The KV cache of all
    sequences together takes at most half of what the weights leave of ``memory`` (else of what is available), so the batch is halved
    down to 4, then the context down to 4,096, then either further.
    """
    threads = max(1, min(hardware.cpu.physical_cores, math.floor(hardware.cpu.usable_cores)))
    sequences, context = 8, context_length or 4096
    room = kv_room(hardware, weight_bytes=weight_bytes, memory=memory)
    while sequences * context * kv_bytes_per_token > room:
        if sequences > 4 or (context <= 4096 and sequences > 1):
            sequences //= 2
        elif context > 256:
            context //= 2
        else:
            break
    return Defaults(threads=threads, max_sequences=sequences, context_length=context)


def kv_room(hardware: Hardware, *, weight_bytes: int, memory: int | None) -> int:
    """Bytes for the KV cache of all sequences together: half of what the weights leave of ``memory``, else of what is available."""
    return max(0, min(hardware.memory.available, memory or hardware.memory.available) - weight_bytes) // 2


def batch_sequences(room: int, kv_bytes_per_token: int) -> int:
    """How many sequences a batch should run at once: as many as ``room`` bytes hold the KV of with 2,048 tokens each, from 8 to 64. Each
    is slower than alone, and the batch is done sooner."""
    return max(_LEAST_SEQUENCES, min(_MOST_SEQUENCES, room // max(1, _ROW_TOKENS * kv_bytes_per_token)))


def measure_bandwidth(threads: int = 1, *, seconds: float = 0.5) -> Bandwidth:
    """Read and copy memory on ``threads`` threads for about ``seconds`` each, and give the best pass."""
    import numpy as np

    last_level = max((cache.size for cache in _caches(Path("/"))), default=0)
    # Larger than the caches, so that memory bandwidth is measured, and small enough to disturb no other process.
    size = max(8 << 20, min(max(256 << 20, 2 * last_level), 1 << 30, int(_psutil().virtual_memory().available) // 8))
    source = np.ones(size // 8, dtype=np.uint64)
    # Written once before the clock runs: the first touch of a page costs more than the copy.
    target = np.ones_like(source)
    sources, targets = np.array_split(source, threads), np.array_split(target, threads)
    with ThreadPoolExecutor(threads) as pool:

        def read() -> None:
            list(pool.map(np.max, sources))

        def copy() -> None:
            list(pool.map(np.copyto, targets, sources))

        return Bandwidth(threads=threads, read=size / _best(read, seconds), copy=2 * size / _best(copy, seconds))


def _best(work: Callable[[], None], seconds: float) -> float:
    best, end = math.inf, time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


def _psutil() -> Any:
    """psutil, which has no type hints, and is imported only when the machine is looked at."""
    import psutil

    return psutil


def _affinity(logical: int) -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return logical


def _cpu_info(root: Path) -> tuple[str, tuple[str, ...]]:
    """Name and features."""
    if platform.system() == "Darwin":
        return _cpu_info_of_macos(_output(["sysctl", "-a"]))
    found: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), value.strip())
    flags = set((found.get("flags") or found.get("features") or "").split())
    model = found.get("model name") or found.get("hardware") or platform.processor() or platform.machine()
    return model, tuple(name for flag, name in _FEATURES.items() if flag in flags)


def _cpu_info_of_macos(text: str) -> tuple[str, tuple[str, ...]]:
    found = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    intel = f"{found.get('machdep.cpu.features', '')} {found.get('machdep.cpu.leaf7_features', '')}".lower().replace(".", "_").split()
    names = {"avx1_0": "avx", "sse4_2": "sse4_2", "avx2": "avx2", "fma": "fma", "f16c": "f16c", "avx512f": "avx512f"}
    features = [name for flag, name in names.items() if flag in intel]
    arm = {"AdvSIMD": "neon", "FEAT_DotProd": "dotprod", "FEAT_FP16": "fp16", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16"}
    features += [name for flag, name in arm.items() if found.get(f"hw.optional.arm.{flag}") == "1"]
    return found.get("machdep.cpu.brand_string", platform.machine()), tuple(features)


def _caches(root: Path) -> tuple[Cache, ...]:
    found = []
    for folder in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index[0-9]*")):
        level, size = _read(folder / "level").strip(), re.fullmatch(r"(\d+)([KMG]?)", _read(folder / "size").strip())
        if level.isdigit() and size:
            unit = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[size[2]]
            shared = _count(_read(folder / "shared_cpu_list").strip())
            found.append(Cache(level=int(level), kind=_read(folder / "type").strip(), size=int(size[1]) * unit, shared_by=shared))
    return tuple(found)


def _count(ranges: str) -> int:
    """How many numbers ``0-3,8`` names."""
    total = 0
    for part in ranges.split(","):
        low, _, high = part.partition("-")
        if low.isdigit():
            total += int(high) - int(low) + 1 if high.isdigit() else 1
    return max(1, total)


def _gpus(root: Path) -> tuple[Gpu, ...]:
    return (*_nvidia(root), *_amd(root))


def _nvidia(root: Path) -> list[Gpu]:
    folder = root / "proc/driver/nvidia/gpus"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"]
    # On macOS and Linux without the driver's folder there is nothing to ask; Windows has the tool alone.
    output = _output(query) if folder.is_dir() or os.name == "nt" else ""
    gpus = []
    for line in output.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4:
            total, free = (int(field) << 20 if field.isdigit() else 0 for field in fields[1:3])
            gpus.append(Gpu(name=fields[0], vendor="nvidia", memory=total, memory_free=free, driver=fields[3]))
    if gpus:
        return gpus
    names = [re.search(r"Model:\s*(.+)", _read(path)) for path in sorted(folder.glob("*/information"))]
    return [Gpu(name=name[1].strip(), vendor="nvidia") for name in names if name]


def _amd(root: Path) -> list[Gpu]:
    gpus = []
    for device in sorted((root / "sys/class/drm").glob("card[0-9]*/device")):
        total = _read(device / "mem_info_vram_total").strip()
        if _read(device / "vendor").strip() == "0x1002" and total.isdigit():
            used = _read(device / "mem_info_vram_used").strip()
            free = int(total) - int(used) if used.isdigit() else 0
            name = _read(device / "product_name").strip() or "AMD GPU"
            gpus.append(Gpu(name=name, vendor="amd", memory=int(total), memory_free=free))
    return gpus


def _storage() -> Storage:
    folder = data_folder()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return Storage(path=str(data_folder()), total=usage.total, free=usage.free)


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT, check=False, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
