"""SIGKILL at any moment: nothing half-written is ever visible, and the next start goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmasos.acceleration import export, measuring, run
from llmasos.acceleration.cache import StageCache
from llmasos.compose.formats import open_model

from .conftest import Bench, noisy, rounded


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def in_stage(name: str, work: Any) -> Callable[[Bench], None]:
    def arm(bench: Bench) -> None:
        def killing(tensor_name: str, *rest: Any) -> Any:
            return die() if tensor_name == "model.layers.1.mlp.up_proj.weight" else work(tensor_name, *rest)

        component = bench.accelerators[name].component
        bench.add(name, killing, stage=component.stage, plan=component.plan)

    return arm


def at(owner: Any, name: str, *, after: bool = False) -> Callable[[Bench], None]:
    """Dies where a function of the runtime is called, or just after it has done its work."""

    def arm(_: Bench) -> None:
        original = getattr(owner, name)
        setattr(owner, name, (lambda *a, **k: (original(*a, **k), die())) if after else die)

    return arm


MOMENTS = {
    "in the first stage": (in_stage("noise", noisy), ["noise", "int8"]),
    "in the second stage": (in_stage("int8", rounded), ["int8"]),
    "before the first stage is kept": (at(StageCache, "keep"), ["noise", "int8"]),
    "after a stage is kept": (at(StageCache, "keep", after=True), []),
    "while measuring": (at(measuring, "measure"), ["noise", "int8"]),
    "before the export": (at(run, "export"), []),
    "in the export": (at(export, "dump_json"), []),
}


def start(folder: Path, accelerators: Any, moment: str, measure: bool) -> None:
    bench = Bench(folder, accelerators=accelerators)
    MOMENTS[moment][0](bench)
    bench.run(["noise", "int8"], output=folder / "out", measure=measure)


#: Moments at which as much is kept as at another.
ALIKE = {"before the first stage is kept", "before the export"}


@pytest.mark.parametrize("moment", [pytest.param(each, marks=[pytest.mark.long] * (each in ALIKE)) for each in MOMENTS])
def test_killed_and_started_again(bench: Bench, moment: str) -> None:
    measure = moment == "while measuring"
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=start, args=(bench.folder, bench.accelerators, moment, measure))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL
        assert not (bench.folder / "out").exists()
        for entry in (bench.folder / "cache" / "stages").glob("[!.]*"):
            assert (entry / "stage.json").is_file()
            assert open_model(entry / "model").digest
    report = bench.run(["noise", "int8"], output=bench.folder / "out", measure=measure)
    assert bench.log == MOMENTS[moment][1]
    assert open_model(report.path).digest
    assert sorted(path.name for path in bench.folder.iterdir() if "partial" in path.name) == []
    assert [path for path in (bench.folder / "cache" / "stages").iterdir() if "making" in path.name] == []


def test_two_processes_make_a_stage_once(bench: Bench) -> None:
    """Both want the same stage at the same time: one makes it, the other waits and finds it."""
    results = multiprocessing.get_context("fork").Queue()

    def both(number: int) -> None:
        stage = bench.run(["noise"], output=bench.folder / f"out-{number}").stages[0]
        results.put(stage.cached)

    children = [multiprocessing.get_context("fork").Process(target=both, args=(number,)) for number in range(2)]
    for child in children:
        child.start()
    assert sorted(results.get(timeout=120) for _ in children) == [False, True]
    for child in children:
        child.join(120)
        assert child.exitcode == 0
