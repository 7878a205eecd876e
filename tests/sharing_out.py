"""A plugin of pytest that shares tests out among processes by file, so that what the tests of a file share is made once, and tests that
measure memory or threads never run beside others in one process.

Each process imports and collects a file when its turn comes. pytest-xdist has all of them collect all tests before it shares these out,
which takes each half a minute.
"""

from __future__ import annotations

import gc
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

#: How the paths of files begin that run in one process -> why: they share an environment that wheels are installed in, or a framework
#: (and Keras above it) that takes each process longer to import than most of them take to run.
_TOGETHER: Final = {
    "tests/plugins_install/": "wheels",
    "plugins/backend_tf/": "tensorflow",
    "tests/test_backends_agree.py": "tensorflow",
    "tests/test_layers_by_kernels.py": "tensorflow",
}
#: What makes the tests of a file take longer.
_MARKS: Final = re.compile(r"\bmark\.(?:slow|model|wheels)\b")


class WaitingFile(pytest.File):
    """A file that this process has not imported yet, as one item."""

    def collect(self) -> Iterator[pytest.Item]:
        tests = WaitingTests.from_parent(self, name="*")
        tests.add_marker(pytest.mark.timeout(0))  # each of them has its own
        yield tests


class WaitingTests(pytest.Item):
    """The tests of a file that this process has not imported yet."""

    @cached_property
    def weight(self) -> int:
        """About how long they take, in no unit."""
        text = self.path.read_text(encoding="utf-8")
        return len(text) * (1 + len(_MARKS.findall(text)))

    def runtest(self) -> None:
        raise AssertionError("They are run one by one.")

    def run(self, following: pytest.Item | None) -> None:
        """Collect them, and run one after the other, as pytest does. ``following``: what is run then."""
        items = self._collected()
        session = self.session
        if not items:  # the test before left what it shares with this file
            session._setupstate.teardown_exact(following)
        place = session.items.index(self)
        try:
            for item, after in zip(items, itertools.chain(items[1:], [following]), strict=False):
                session.items[place] = item  # where pytest-xdist looks for what a report is of
                self.ihook.pytest_runtest_protocol(item=item, nextitem=after)
                if session.shouldfail or session.shouldstop:
                    break
        finally:
            session.items[place] = self

    def _collected(self) -> list[pytest.Item]:
        file = self.parent
        assert file is not None
        assert file.parent is not None
        gc.disable()  # as while all is collected
        try:
            items = list(self.session.genitems(pytest.Module.from_parent(file.parent, path=self.path)))
        finally:
            gc.enable()
        self.session._collection_cache.clear()  # with what is held of earlier files
        self.ihook.pytest_collection_modifyitems(session=self.session, config=self.config, items=items)
        return items


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> WaitingFile | None:
    """Let files wait for their turn in one process of several; but where the command line names a test, it is looked for at once."""
    config = parent.config
    if not hasattr(config, "workerinput") or any("::" in argument for argument in config.args):
        return None
    waiting: WaitingFile = WaitingFile.from_parent(parent, path=module_path)
    return waiting


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Run the files that take longest first, so that all processes end at about the same time. Which of their tests ``-k`` and ``-m`` leave
    out shows once these are collected."""
    waiting = [item for item in items if isinstance(item, WaitingTests)]
    yield
    if waiting:
        weights: Counter[str] = Counter()
        for item in waiting:
            weights[_scope(item.nodeid)] += item.weight
        items[:] = sorted(waiting, key=lambda item: -weights[_scope(item.nodeid)])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a file whose turn has come."""
    if not isinstance(item, WaitingTests):
        return None
    item.run(nextitem)
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Share the tests out by file, in the order in which they were collected."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    config.option.loadscopereorder = False
    return ByFile(config, log)


def _scope(nodeid: str) -> str:
    """What of a run stays in one process: a file, or those of ``_TOGETHER``."""
    file = nodeid.partition("::")[0]
    return next((name for start, name in _TOGETHER.items() if file.startswith(start)), file)
