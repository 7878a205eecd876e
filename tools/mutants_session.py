"""A pytest plugin, for ``tools/mutants.py``: runs each test once on the code as it is, then for each change the tests that run the changed
function, in a process that is forked from this one and so has imported and collected all that it needs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from _pytest.runner import runtestprotocol
from mutmut.mutation import trampoline

#: Exit statuses of a process that tests a change.
_SURVIVED, _KILLED = 0, 1


@attrs.define
class Measured:
    """What a test did on the code as it is.

    Attributes:
        cpu: seconds of processor time, its child processes' included.
        wall: seconds.
        functions: those it ran of the code that changes are made to, by mutmut's names.
    """

    cpu: float
    wall: float
    functions: frozenset[str]


def _passes(item: pytest.Item, following: pytest.Item) -> bool:
    """Run a test, and leave the fixtures that ``following`` needs too."""
    return not any(report.failed for report in runtestprotocol(item, nextitem=following, log=False))


def _cpu() -> float:
    return sum(os.times()[:4])


def measure(items: Sequence[pytest.Item], jobs: int, folder: Path) -> dict[pytest.Item, Measured]:
    """Run each test, the files shared out among ``jobs`` processes. Raises ``pytest.UsageError`` where one fails."""
    files: defaultdict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(jobs)]
    for of_file in sorted(files.values(), key=len, reverse=True):
        min(shares, key=len).extend(of_file)
    processes = {_measure(share, folder / f"measured-{number}.json"): share for number, share in enumerate(shares) if share}
    measured = {}
    for number, share in enumerate(processes.values()):
        os.waitpid(list(processes)[number], 0)
        for item, test in zip(share, json.loads((folder / f"measured-{number}.json").read_text(encoding="utf-8")), strict=False):
            measured[item] = Measured(test["cpu"], test["wall"], frozenset(test["functions"]))
    if failed := [item.nodeid for item in items if item not in measured]:
        raise pytest.UsageError(f"On the code as it is, {failed[0]} fails.")
    return measured


def _measure(items: Sequence[pytest.Item], path: Path) -> int:
    """A process that runs tests until one fails and writes what they did; its number."""
    path.unlink(missing_ok=True)
    if pid := os.fork():
        return pid
    functions: set[str] = set()
    vars(trampoline)["record_trampoline_hit"] = lambda name, **_: functions.add(name)
    vars(trampoline)["_mutant_under_test"] = "stats"  # of this process alone: what a test starts runs the code as it is
    measured = []
    try:
        for item, following in zip(items, [*items[1:], items[0]], strict=True):
            functions.clear()
            cpu, wall = _cpu(), time.monotonic()
            if not _passes(item, following):
                break
            measured.append({"cpu": _cpu() - cpu, "wall": time.monotonic() - wall, "functions": sorted(functions)})
            path.write_text(json.dumps(measured), encoding="utf-8")
    finally:
        os._exit(0)


def chosen(function: str, measured: dict[pytest.Item, Measured], budget: float) -> list[pytest.Item]:
    """The tests for a change to this function, of ``budget`` seconds together: the quickest that run it, or of all where none does, since
    child processes may. By file, the quickest first, so that a file's fixtures are made once."""
    running = [item for item, test in measured.items() if function in test.functions] or list(measured)
    files: defaultdict[Path, list[pytest.Item]] = defaultdict(list)
    for item in sorted(running, key=lambda item: measured[item].cpu):
        budget -= measured[item].cpu
        if budget < 0:
            break
        files[item.path].append(item)
    return [item for items in sorted(files.values(), key=lambda items: sum(measured[item].cpu for item in items)) for item in items]


def start(mutant: str, tests: Sequence[pytest.Item], measured: dict[pytest.Item, Measured]) -> int:
    """A process that runs the tests on the changed code until one fails; its number."""
    if pid := os.fork():
        return pid
    status = _KILLED
    try:
        os.setpgid(0, 0)
        trampoline.set_mutant_under_test(mutant)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if tests:
            tests[0].session._setupstate.teardown_exact(tests[0])
        for test, following in zip(tests, [*tests[1:], *tests[:1]], strict=True):
            signal.setitimer(signal.ITIMER_REAL, 20 + 10 * measured[test].wall)
            if not _passes(test, following):
                break
        else:
            status = _SURVIVED
    finally:
        os._exit(status)


class Session:
    """Tests the changes that the plan names, and writes how each ended.

    The plan is a file of JSON: ``functions`` (the function of each change), ``code`` (the folder that all of them lie in), ``jobs``,
    ``budget`` and ``results`` (a file: "survived", "killed" or "timeout" of each change).
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        measured = measure(session.items, self._plan["jobs"], Path(self._plan["results"]).parent)
        for name in {function.rpartition(".")[0] for function in self._plan["functions"].values()} & sys.modules.keys():
            if not Path(str(sys.modules[name].__file__)).is_relative_to(self._plan["code"]):
                raise pytest.UsageError(f"The tests import {name} from elsewhere: {sys.modules[name].__file__}")
        print(f"{len(measured)} tests took {sum(test.cpu for test in measured.values()):.0f} s", file=sys.__stdout__, flush=True)
        results: dict[str, str] = {}
        running: dict[int, str] = {}
        waiting = list(self._plan["functions"].items())
        while waiting or running:
            while waiting and len(running) < self._plan["jobs"]:
                mutant, function = waiting.pop()
                running[start(mutant, chosen(function, measured, self._plan["budget"]), measured)] = mutant
            pid, status = os.wait()
            if (ended := running.pop(pid, None)) is None:
                continue
            self._end_group(pid)
            timeout = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            results[ended] = "timeout" if timeout else "survived" if status == _SURVIVED else "killed"
            print(f"{len(results)}/{len(self._plan['functions'])} {results[ended]} {ended}", file=sys.__stdout__, flush=True)
            Path(self._plan["results"]).write_text(json.dumps(results), encoding="utf-8")
        return True

    @staticmethod
    def _end_group(pid: int) -> None:
        """End what the tests of an ended process started and left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


_PLAN: Final = "LLMASOS_MUTANTS"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Session(json.loads(Path(os.environ.pop(_PLAN)).read_text(encoding="utf-8"))))
