"""What a control group allows this process: CPU time and memory, in both versions of the Linux interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import attrs

#: Version 1 says "no limit" with the largest number of pages.
_UNLIMITED: Final = 1 << 60


@attrs.frozen
class Limits:
    """What holds for the process; None where nothing does.

    Attributes:
        cpus: CPU time a second, in cores; may be a fraction.
        memory: bytes.
        memory_used: bytes that count against ``memory`` and cannot be taken back by dropping caches.
    """

    cpus: float | None = None
    memory: int | None = None
    memory_used: int | None = None


@attrs.frozen
class _Mount:
    point: Path
    root: PurePosixPath
    version: int
    controllers: frozenset[str]


def limits(root: Path = Path("/")) -> Limits:
    """The tightest limits of the process's group and the groups above it. ``root`` is where the file system begins; empty limits
    where there are no control groups."""
    cpus: list[float] = []
    memory: list[tuple[int, int]] = []
    for mount in _mounts(root):
        for folder in _groups(root, mount):
            share = _cpu_share(folder, mount.version)
            if share is not None:
                cpus.append(share)
            bound = _memory_bound(folder, mount.version)
            if bound is not None:
                memory.append(bound)
    if not memory:
        return Limits(cpus=min(cpus, default=None))
    # The group with the least room is the one that will be hit.
    tightest, used = min(memory, key=lambda each: each[0] - each[1])
    return Limits(cpus=min(cpus, default=None), memory=tightest, memory_used=used)


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _lines(root / "proc/self/mountinfo"):
        left, dash, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if not dash or len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        point = root / fields[4].replace("\\040", " ").lstrip("/")
        yield _Mount(point, PurePosixPath(fields[3]), version, frozenset(kind[2].split(",")))


def _groups(root: Path, mount: _Mount) -> Iterator[Path]:
    """Folders of the process's group and all above it, as far as they can be seen."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if mount.version == 2 and controllers:
            continue
        if mount.version == 1 and not mount.controllers & set(controllers.split(",")) - {""}:
            continue
        path = PurePosixPath(name)
        # In a container the mount begins at the container's own group, which /proc may name as seen from the host.
        inside = path.relative_to(mount.root) if path.is_relative_to(mount.root) else PurePosixPath()
        folder = mount.point / inside
        while not folder.is_dir() and folder != mount.point:
            folder = folder.parent
        while True:
            yield folder
            if folder == mount.point:
                break
            folder = folder.parent


def _cpu_share(folder: Path, version: int) -> float | None:
    if version == 2:
        fields = _text(folder / "cpu.max").split()
        quota, period = (_number(field) for field in (*fields, "", "")[:2])
    else:
        quota, period = _number(_text(folder / "cpu.cfs_quota_us")), _number(_text(folder / "cpu.cfs_period_us"))
    return quota / period if quota is not None and quota > 0 and period else None


def _memory_bound(folder: Path, version: int) -> tuple[int, int] | None:
    names = ("memory.max", "memory.current", "inactive_file") if version == 2 else _V1_MEMORY
    bound = _number(_text(folder / names[0]))
    if bound is None or not 0 <= bound < _UNLIMITED:
        return None
    used = _number(_text(folder / names[1])) or 0
    for line in _lines(folder / "memory.stat"):
        key, _, value = line.partition(" ")
        if key == names[2]:
            used -= _number(value) or 0
    return bound, max(0, used)


_V1_MEMORY: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None  # "max", or no such file


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()
