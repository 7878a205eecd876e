"""Runs conformance classes against plugins that are written as text."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs
import pytest

_NUMBER = itertools.count()
#: Plugins of pytest's own that these runs do without.
_WITHOUT = [
    f"-pno:{name}"
    for name in (
        *("cacheprovider", "terminal", "doctest", "junitxml", "pastebin", "legacypath", "faulthandler", "logging", "stepwise", "debugging"),
        *("setuponly", "setupplan", "unittest", "recwarn", "subtests", "reports"),
    )
]


@attrs.define
class Outcomes:
    """Names of the standard tests, without parameters, by how they ended; where failures are ``awaited``, each up to its first one."""

    awaited: bool = False
    passed: set[str] = attrs.field(factory=set)
    failed: set[str] = attrs.field(factory=set)
    skipped: set[str] = attrs.field(factory=set)
    collection_errors: list[str] = attrs.field(factory=list)
    messages: dict[str, str] = attrs.field(factory=dict)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Python's own traceback of a failure: a third of a run went into the source lines that pytest shows around it."""
        config.option.tbstyle = "native"

    def pytest_runtest_protocol(self, item: pytest.Function) -> bool | None:
        """Leave out what would tell nothing new: a defect is caught by the first failure."""
        return True if self.awaited and item.originalname in self.failed else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2].partition("[")[0]
        if report.failed:
            self.failed.add(name)
            self.messages[name] = str(report.longrepr)
        elif report.skipped:
            self.skipped.add(name)
        elif report.when == "call":
            self.passed.add(name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.collection_errors.append(str(report.longrepr))


RunConformance = Callable[..., Outcomes]


@pytest.fixture
def run_conformance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunConformance]:
    """``run(base, plugin, body)``: pytest on a class of ``base`` with ``body``, for a plugin module with the text ``plugin``.

    ``only`` names the standard tests to run, each up to its first failure; none: all but those ``without``. ``leaks``: files and sockets
    that the plugin leaves open are no failure.
    """
    made: list[str] = []
    monkeypatch.syspath_prepend(str(tmp_path))
    # A kit needs no plugin of pytest, and to look for them in all installed distributions takes as long as most of its runs.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)  # options of the run that these tests are in

    def run(
        base: str, plugin: str, body: str = "", only: Iterable[str] = (), *, without: Iterable[str] = (), leaks: bool = False
    ) -> Outcomes:
        module = f"plugin_under_test_{next(_NUMBER)}"
        made.append(module)
        (tmp_path / f"{module}.py").write_text(plugin, encoding="utf-8")
        test = tmp_path / f"test_{module}.py"
        lines = "".join(f"    {line}\n" for line in [f'module = "{module}"', *body.splitlines()])
        test.write_text(f"from llmasos_hookspecs.testing import *\n\n\nclass TestConformance({base}):\n{lines}", encoding="utf-8")
        outcomes = Outcomes(awaited=bool(only))
        config = tmp_path / "pytest.ini"
        config.write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
        arguments = ["-c", str(config), f"--rootdir={tmp_path}", "--import-mode=importlib", "--strict-markers"]
        arguments += [*_WITHOUT, f"--basetemp={tmp_path / module}"]
        if leaks:
            arguments += ["-p", "no:unraisableexception"]
        if only or without:
            arguments += ["-k", " or ".join(only) or f"not ({' or '.join(without)})"]
        gc.freeze()  # pytest has garbage searched for twice a run, in all that the runs before it left alive, too
        code = pytest.main([*arguments, str(test)], plugins=[outcomes])
        assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED), f"pytest ended with {code!r}."
        assert outcomes.passed or outcomes.failed or outcomes.collection_errors, "No standard test ran."
        return outcomes

    yield run
    for module in made:
        sys.modules.pop(module, None)
