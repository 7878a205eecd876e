"""What this machine is: processor, caches, GPUs, disk and memory bandwidth.

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

#: Seconds that a driver's tool may take.
_TOOL_TIMEOUT: Final = 10.0

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
class Processor:
    """The processor.

    Attributes:
        model: its maker's name for it.
        architecture: ``x86_64``, ``aarch64``, ``arm64``.
        features: instruction sets that kernels use, of those in this module.
        caches: from the nearest to the farthest.
    """

    model: str
    architecture: str
    features: tuple[str, ...]
    caches: tuple[Cache, ...] = ()


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
class Bandwidth:
    """Memory bandwidth in bytes a second, measured with numpy; an upper bound on decoding is this over the bytes of the weights.

    ``read`` counts the bytes read, ``copy`` those read and written; both are lower bounds, because numpy's loops take time too.
    """

    threads: int
    read: float
    copy: float


def describe(system: Mapping[str, Any]) -> dict[str, Any]:
    """The machine as plain data, with what core knows of it (``CommandContext.describe_system``). Takes a second or two, because the memory
    bandwidth is measured: on one thread, and on as many as engines use by default, one for each physical core that the process may use, as
    two threads on one core share its multipliers."""
    cores, memory = system["cores"], system["memory"]
    threads = max(1, min(cores["physical"], math.floor(cores["usable"])))
    bandwidth = [measure_bandwidth(count, available=memory["available"]) for count in sorted({1, threads})]
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": {**attrs.asdict(processor()), **{f"{name}_cores": count for name, count in cores.items()}},
        "memory": memory,
        "gpus": [attrs.asdict(gpu) for gpu in gpus()],
        "storage": attrs.asdict(storage(Path(system["folders"]["data"]))),
        "bandwidth": [attrs.asdict(measured) for measured in bandwidth],
        "defaults": {"threads": threads},
    }


def processor(root: Path = Path("/")) -> Processor:
    """The processor. ``root`` is where the file system begins, for tests."""
    model, features = _cpu_info(root)
    return Processor(model=model, architecture=platform.machine(), features=features, caches=_caches(root))


def gpus(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """The graphics processors whose drivers are there; takes up to a second where an NVIDIA driver has to be asked."""
    return (*_nvidia(root), *_amd(root))


def storage(folder: Path) -> Storage:
    """The disk that holds ``folder``, or will hold it."""
    there = folder
    while not there.exists():
        there = there.parent
    usage = shutil.disk_usage(there)
    return Storage(path=str(folder), total=usage.total, free=usage.free)


def measure_bandwidth(threads: int = 1, *, available: int, seconds: float = 0.5) -> Bandwidth:
    """Read and copy memory on ``threads`` threads for about ``seconds`` each, and give the best pass; takes at most a quarter of the
    ``available`` bytes, or 16 MiB."""
    import numpy as np

    last_level = max((cache.size for cache in _caches(Path("/"))), default=0)
    # Larger than the caches, so that memory bandwidth is measured, and small enough to disturb no other process.
    size = max(8 << 20, min(max(256 << 20, 2 * last_level), 1 << 30, available // 8))
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
