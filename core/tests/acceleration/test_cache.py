"""Finished stages stay within a bound, and none goes that somebody uses."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from llmasos.acceleration.cache import StageCache

from .conftest import Bench, noisy


def entries(bench: Bench) -> set[str]:
    return {folder.name for folder in stages(bench).glob("[!.]*")}


def stages(bench: Bench) -> Path:
    return bench.folder / "cache" / "stages"


def make(bench: Bench, amount: float) -> str:
    """Makes a stage of its own, exported so that this process holds nothing; returns its key."""
    before = entries(bench)
    bench.run([("noise", {"amount": amount})], output=bench.folder / f"out-{amount}")
    (key,) = entries(bench) - before
    return key


def size(bench: Bench, key: str) -> int:
    return sum(file.stat().st_size for file in (stages(bench) / key).rglob("*") if file.is_file())


def test_what_was_used_longest_ago_goes_first(bench: Bench) -> None:
    first, second, third = (make(bench, amount) for amount in (0.1, 0.2, 0.3))
    for age, key in enumerate((third, second, first), 1):
        os.utime(stages(bench) / key / "stage.json", (1000 - age, 1000 - age))
    assert bench.run([("noise", {"amount": 0.1})], output=bench.folder / "again").stages[0].cached
    cache = StageCache(stages(bench))
    total = size(bench, first) + size(bench, third)
    assert cache.trim(total) == pytest.approx(size(bench, first), rel=0.01)
    assert entries(bench) == {first, third}
    assert cache.trim(total) == 0
    assert cache.trim(total - 1) > 0
    assert entries(bench) == {first}
    assert cache.find(third) is None


def test_a_run_makes_room_and_keeps_its_own_stages(bench: Bench) -> None:
    old = make(bench, 0.1)
    seen: list[set[str]] = []

    def look(name: str, tensor: Any, options: Any, context: Any) -> Any:
        seen.append(entries(bench))
        return tensor

    bench.add("look", look, stage="structure")
    bench.run([("noise", {"amount": 0.2}), "look"], output=bench.folder / "new", cache_limit=1)
    assert old not in seen[-1]
    assert len(seen[-1]) == 1
    assert len(entries(bench)) == 2
    bench.run([("noise", {"amount": 0.3})], output=bench.folder / "newer", cache_limit=1)
    assert len(entries(bench)) == 1


def hold(root: Path, key: str, ready: Any) -> None:
    cache = StageCache(root)
    with contextlib.ExitStack() as uses:
        with cache.lock(key):
            uses.enter_context(cache.in_use(key))
        ready.set()
        signal.pause()


def test_nothing_goes_that_another_process_uses_until_it_ends_or_is_killed(bench: Bench) -> None:
    used = make(bench, 0.1)
    make(bench, 0.2)
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    child = fork.Process(target=hold, args=(stages(bench), used, ready))
    child.start()
    try:
        assert ready.wait(120)
        StageCache(stages(bench)).trim(0)
        assert entries(bench) == {used}
    finally:
        child.kill()
        child.join()
    StageCache(stages(bench)).trim(0)
    assert entries(bench) == set()
    assert not list(stages(bench).glob(f".{used}.used-*"))


def test_a_result_left_in_the_cache_stays_as_long_as_the_process(bench: Bench) -> None:
    report = bench.run([("noise", {"amount": 0.1}), "int8"])
    StageCache(stages(bench)).trim(0)
    assert entries(bench) == {report.path.parent.name}


def test_what_killed_processes_left_goes_and_what_is_being_made_stays(bench: Bench) -> None:
    key = make(bench, 0.1)
    cache = StageCache(stages(bench))
    for name in (f".{key}.making-1-dead", f".{key}.removing-dead", ".other.making-2-dead"):
        (stages(bench) / name / "model").mkdir(parents=True)
        (stages(bench) / name / "model" / "weights").write_bytes(bytes(1000))
    with cache.lock("living"), cache.workplace("living") as workplace:
        assert cache.trim(2**40) == 3000
        assert workplace.is_dir()
    assert entries(bench) == {key}
    assert not [path for path in stages(bench).iterdir() if "dead" in path.name]


def test_an_entry_that_is_being_made_anew_is_passed_over(bench: Bench) -> None:
    key = make(bench, 0.1)
    cache = StageCache(stages(bench))
    with cache.lock(key):
        assert cache.trim(0) == 0
    assert entries(bench) == {key}


def test_what_was_removed_is_made_again(bench: Bench) -> None:
    make(bench, 0.1)
    StageCache(stages(bench)).trim(0)
    bench.add("noise", noisy, stage="structure")
    assert not bench.run([("noise", {"amount": 0.1})]).stages[0].cached
