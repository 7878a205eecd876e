"""What was found: one finding for each kind, with the input that showed it first."""

from __future__ import annotations

import hashlib
import re
import traceback
from pathlib import Path
from typing import Final

import attrs

from benchmarks.fuzz.containment import Strayed

#: Parts of paths by which frames of ours are known.
_OURS: Final = ("llmasos",)


@attrs.frozen
class Finding:
    """``kind``: what happened and where, in one line."""

    kind: str
    input: Path


def kind_of(error: BaseException) -> str:
    """Type and innermost frame of ours, or what a reader did that none may; numbers and names of the case left out."""
    if isinstance(error, Strayed):
        return re.sub(r"\d+", "N", str(error))[:160]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(part in frame.filename for part in _OURS) and "benchmarks" not in frame.filename]
    frame = (ours or frames or [traceback.FrameSummary("nowhere", 0, "")])[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno} ({frame.name})"


def keep(folder: Path, kind: str, data: bytes, text: str) -> Finding:
    """Write a finding, unless one of its kind is kept already."""
    name = hashlib.sha256(kind.encode()).hexdigest()[:10]
    path = folder / f"{name}.input"
    if not path.exists():
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"{kind}\n\n{text}", encoding="utf-8", errors="replace")
    return Finding(kind, path)


def kept(folder: Path) -> list[Finding]:
    """The findings of a folder."""
    texts = sorted(folder.glob("*.txt"))
    return [
        Finding(path.read_text(encoding="utf-8").partition("\n")[0], path.with_suffix(".input"))
        for path in texts
        if path.with_suffix(".input").exists()
    ]
