"""Runs a target in children until its time is over; a child that hung or crashed is followed by another."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import attrs

from benchmarks.fuzz.findings import Finding, keep, kept
from benchmarks.fuzz.state import read_state

_ROOT: Final = Path(__file__).parents[2]
#: Children that one kind of hang or crash may end before the target is left.
_MOST_OF_A_KIND: Final = 3
#: Seconds that a child may take over its time: to begin, and for its last input.
_GRACE: Final = 300


class DidNotStart(Exception):
    """A target's own code fails, or its libraries are not installed."""


@attrs.frozen(kw_only=True)
class Report:
    """``seconds``: by the clock; ``edges``: branches of our code that were covered, None without atheris."""

    target: str
    runs: int
    seconds: float
    edges: int | None
    findings: list[Finding]


def run_target(name: str, seconds: int, folder: Path, *, runs: int | None = None, guided: bool = True, path: Path | None = None) -> Report:
    """Run a target for ``seconds``, or until a child ran ``runs`` inputs. Its corpus and findings lie in ``folder``.

    What was found before is tried again first. ``path``: a folder of modules with targets of their own.

    Raises:
        DidNotStart: no input was run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus").mkdir(exist_ok=True)
    findings = folder / "findings"
    for found in findings.glob("*.input"):
        shutil.move(found, folder / "corpus" / found.stem)
    shutil.rmtree(findings, ignore_errors=True)
    findings.mkdir()
    start = time.monotonic()
    end = start + seconds
    total, edges, ended = 0, None, dict[str, int]()
    for number in range(10_000):
        (folder / "state").unlink(missing_ok=True)
        left = max(1, round(end - time.monotonic()))
        command = ["--seconds", str(left), "--seed", str(number)]
        command += ([] if guided else ["--plain"]) + ([] if runs is None else ["--runs", str(runs)])
        code = _child(name, folder, command, left + _GRACE, path)
        log, where = _text(folder / "log.txt"), _text(folder / "ended.txt")
        state = read_state(folder / "state")
        total += state.runs
        counted = [int(count) for count in re.findall(r"cov: (\d+)", log)]
        edges = max([edges or 0, *counted]) if guided else None
        if code == 0:
            break
        if not state.runs:
            raise DidNotStart(f"{name} ends with {code} before its first input:\n{log[-2000:]}")
        kind = _kind(code, where)
        if _repeats(name, state.data, folder, path):
            ended[kind] = ended.get(kind, 0) + 1
        elif kind.startswith("hang"):
            continue  # the input itself takes no longer than it may
        else:
            kind += ", and not when its last input was read again"
        keep(folder / "findings", kind, state.data, f"{where}\n{log[-4000:]}")
        if ended.get(kind, 0) >= _MOST_OF_A_KIND or time.monotonic() >= end - 1:
            break
    return Report(target=name, runs=total, seconds=time.monotonic() - start, edges=edges, findings=kept(findings))


def _child(name: str, folder: Path, arguments: list[str], limit: float, path: Path | None) -> int:
    """The exit code of a child, whose output is in ``log.txt``; -9 where it did not end."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, [_ROOT, *([path] if path is not None else [])])),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-P", "-m", "benchmarks.fuzz.child", name, str(folder), *arguments]  # -P: nothing of the folder is imported
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            return process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            return -9
        finally:
            process.kill()
            process.wait()


def _repeats(name: str, data: bytes, folder: Path, path: Path | None) -> bool:
    """Whether an input that ended a child ends another that reads nothing else."""
    suspect = folder / "suspect"
    suspect.write_bytes(data)
    return _child(name, folder, ["--replay", str(suspect)], _GRACE, path) != 0


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _kind(code: int, ended: str) -> str:
    """What ended a child, and where, as far as ``ended.txt`` tells."""
    frames = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', ended)
    ours = [frame for frame in frames if "llmasos" in frame[0]] or frames
    if not ours:
        return f"the process ended with {code}"
    what = (
        "hang" if code in (1, -signal.SIGPROF) else signal.Signals(-code).name if -code in set(signal.Signals) else f"the end with {code}"
    )
    return f"{what} in {Path(ours[0][0]).name}:{ours[0][1]} ({ours[0][2]})"


def how_to_repeat(finding: Finding, target: str) -> str:
    """The command that reads a finding's input again."""
    return f"{sys.executable} -m benchmarks.fuzz.child {target} {finding.input.parents[1]} --replay {finding.input}"
