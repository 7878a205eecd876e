"""A pytest plugin, for ``tools/mutants.py``: runs each test once on the code as it is, then for each change the tests that run the changed
function, in a process that is forked from this one and so has imported and collected all that it needs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
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
    functions: list[str]


def _passes(item: pytest.Item, following: pytest.Item) -> bool:
    """Run a test, and leave the fixtures that ``following`` needs too."""
    return not any(report.failed for report in runtestprotocol(item, nextitem=following, log=False))


def _cpu() -> float:
    return sum(os.times()[:4])


def measure(items: Sequence[pytest.Item], jobs: int, kept: Path) -> dict[pytest.Item, Measured]:
    """Run each test, the files shared out among ``jobs`` processes; what an earlier run wrote to the folder ``kept`` stands for the files
    that have not changed since. Tests that fail are left out, and named: on a busy machine some do."""
    known = _known(kept)
    files: defaultdict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if _name(item) not in known:
            files[item.path].append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(jobs)]
    for of_file in sorted(files.values(), key=len, reverse=True):
        min(shares, key=len).extend(of_file)
    for process in [_measure(share, kept) for share in shares if share]:
        os.waitpid(process, 0)
    known = _known(kept)
    for name in dict.fromkeys(name for path in kept.glob("*.modules") for name in path.read_text(encoding="utf-8").split()):
        with contextlib.suppress(ImportError, RuntimeError, AttributeError):
            importlib.import_module(name)  # here once, and not again in every process
    for item in items:
        if _name(item) not in known:
            print(f"Left out, for it fails on the code as it is: {item.nodeid}", file=sys.__stdout__, flush=True)
    return {item: known[_name(item)] for item in items if _name(item) in known}


def _name(item: pytest.Item) -> str:
    """A test's, with the state of its file."""
    return f"{item.nodeid} {_state(item.path)}"


@functools.cache
def _state(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _known(kept: Path) -> dict[str, Measured]:
    return {name: Measured(*test) for path in kept.glob("*.json") for name, test in json.loads(path.read_text(encoding="utf-8")).items()}


def _measure(items: Sequence[pytest.Item], kept: Path) -> int:
    """A process that runs tests and writes what they did, to a file in ``kept``; its number."""
    if pid := os.fork():
        return pid
    functions: set[str] = set()
    vars(trampoline)["record_trampoline_hit"] = lambda name, **_: functions.add(name)
    vars(trampoline)["_mutant_under_test"] = "stats"  # of this process alone: what a test starts runs the code as it is
    measured: dict[str, Any] = {}
    before = set(sys.modules)
    try:
        for item, following in zip(items, [*items[1:], items[0]], strict=True):
            functions.clear()
            cpu, wall = _cpu(), time.monotonic()
            if _passes(item, following):
                measured[_name(item)] = (_cpu() - cpu, time.monotonic() - wall, sorted(functions))
            if following.path != item.path or following is items[0]:
                (kept / f"{os.getpid()}.json").write_text(json.dumps(measured), encoding="utf-8")
        installed = [name for name, module in sys.modules.items() if "site-packages" in str(getattr(module, "__file__", None))]
        (kept / f"{os.getpid()}.modules").write_text("\n".join(name for name in installed if name not in before), encoding="utf-8")
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
            signal.setitimer(signal.ITIMER_PROF, 10 + 10 * measured[test].cpu)
            signal.setitimer(signal.ITIMER_REAL, 100 + 10 * measured[test].wall)
            if not _passes(test, following):
                break
        else:
            status = _SURVIVED
    finally:
        os._exit(status)


class Session:
    """Tests the changes that the plan names, and writes how each ended.

    The plan is a file of JSON: ``functions`` (the function of each change), ``code`` (the folder that all of them lie in), ``jobs``,
    ``budget``, ``kept`` (a folder for what is known of the tests) and ``results`` (a file: "survived", "killed" or "timeout" of each
    change).
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        measured = measure(session.items, self._plan["jobs"], Path(self._plan["kept"]))
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
            timeout = os.WIFSIGNALED(status) and os.WTERMSIG(status) in {signal.SIGALRM, signal.SIGPROF}
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
