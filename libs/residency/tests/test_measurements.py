"""What loads took is measured, and found again."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import attrs
import pytest

from llmasos_residency.measurements import Measurements, Peak
from llmasos_residency.prediction import Need

NEED = Need(weights=1, peak=2, kv_bytes_per_token=3, context_length=4, load_seconds=5.0, measured=True)
LARGE = 100_000_000


def test_the_peak_counts_what_is_freed_again_and_nothing_from_before() -> None:
    """In a process of its own, where nothing else frees memory meanwhile."""
    code = f"""
from llmasos_residency.measurements import Peak, watch_peak
LARGE = {LARGE}
before = bytes(range(256)) * (LARGE // 256)
with watch_peak() as peak:
    assert peak.bytes < LARGE // 2
    held = bytes(range(256)) * (LARGE // 256)
    peak.look()
    del held
assert LARGE // 2 < peak.bytes < 2 * LARGE
assert Peak().bytes < LARGE // 2
assert len(before) <= LARGE
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_peak_is_the_most_that_any_thread_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what there was at the start, and nothing where it only became less."""
    found = [100]
    monkeypatch.setattr("llmasos_residency.measurements.private_bytes", lambda: found[0])
    peak = Peak()
    found[0] = 50
    assert peak.bytes == 0
    for held in (300, 150):
        found[0] = held
        peak.look()
    assert peak.bytes == 200
    found[0] = 450
    thread = threading.Thread(target=peak.look)
    thread.start()
    thread.join()
    found[0] = 120
    assert peak.bytes == 350


def test_a_measurement_is_found_by_its_key_alone(tmp_path: Path) -> None:
    measurements = Measurements(tmp_path / "made" / "here")
    facts = {"digest": "a", "loader": "torch", "options": {"threads": 1}, "context_length": None}
    key = measurements.key(**facts)
    assert measurements.find(key) is None
    measurements.add(key, NEED)
    assert Measurements(tmp_path / "made" / "here").find(measurements.key(**facts)) == NEED
    several = [measurements.key(**facts | {"options": dict(each)}) for each in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)])]
    assert len(set(several)) == 1, "Options are the same in whatever order they are given."
    changes = [{"digest": "b"}, {"loader": "onnx"}, {"options": {"threads": 2}}, {"context_length": 9}]
    assert len({key, *(measurements.key(**facts | change) for change in changes)}) == 5
    folders = {measurements.key(**facts | {"options": {"folder": Path(name)}}) for name in "aab"}
    assert len(folders) == 2, "An option that is no plain value counts by its text."
    (file,) = (tmp_path / "made" / "here").iterdir()
    file.write_text("{", encoding="utf-8")
    assert measurements.find(key) is None
    measurements.add(key, attrs.evolve(NEED, weights=7))
    assert measurements.find(key) == attrs.evolve(NEED, weights=7)
