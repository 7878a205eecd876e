"""``PlacementConformance`` passes a right placement and catches wrong ones."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hookspecs.tests.planted_faults import one_for_each_check

from llmasos_hookspecs.testing import placement

EXAMPLE = Path(__file__).parents[2] / "examples/placement_process/src"
PLUGIN = (EXAMPLE / "placement_process/__init__.py").read_text(encoding="utf-8")


def changed(old: str, new: str) -> str:
    assert old in PLUGIN, old
    return PLUGIN.replace(old, new)


WRONG = {
    "waits for the seat": (
        changed("        self.thread.start()\n", "        self.thread.start()\n        self.ended.wait()\n"),
        "test_messages_arrive_whole_and_in_order",
    ),
    "loses empty messages": (changed("self._on_message(message)", "message and self._on_message(message)"),
                             "test_messages_arrive_whole_and_in_order"),
    "doubles messages": (
        changed("self._on_message(message)", "self._on_message(message); message == b'7' and self._on_message(message)"),
        "test_a_seat_that_ends_is_reported_once_and_last",
    ),
    "changes the order": (
        changed("self._on_message(message)", "self.late = getattr(self, 'late', []) + [message]\n"
                "            while len(self.late) > 1 or (self.late and len(self.late[0]) < 2): self._on_message(self.late.pop())"),
        "test_messages_arrive_whole_and_in_order",
    ),
    "tears messages of two threads": (
        changed("write_frame(self._process.stdin, message)", "pass").replace(
            "        return True\n",
            "        for part in (len(message).to_bytes(8, 'big'), message[:9], message[9:]):\n"
            "            __import__('time').sleep(0.0001); self._process.stdin.write(part); self._process.stdin.flush()\n"
            "        return True\n",
        ),
        "test_many_threads_may_send",
    ),
    "reports the end twice": (changed("        self._on_end(f", "        self._on_end('ended')\n        self._on_end(f"),
                              "test_a_seat_that_ends_is_reported_once_and_last"),
    "reports the end before the last messages": (
        changed("        while (message :=", "        read_frame(self._process.stdout)\n        while (message :="),
        "test_a_seat_that_ends_is_reported_once_and_last",
    ),
    "says nothing of the end": (changed("        self._on_end(f", "        (f"), "test_a_seat_is_killed_whatever_it_does"),
    "sends to the dead": (changed("if self.ended.is_set():\n                    return False", "pass").replace(
        "            return False\n        return True", "            return True\n        return True"),
        "test_a_seat_that_ends_is_reported_once_and_last"),
    "asks a seat to end rather than killing it": (changed("        self._process.kill()\n\n", "        self._process.stdin.close()\n\n"),
                                                  "test_a_seat_is_killed_whatever_it_does"),
    "waits in kill for the end": (
        changed("        self._process.kill()\n\n", "        self._process.kill()\n        self.thread.join()\n\n"),
        "test_a_seat_may_be_killed_by_its_own_callback",
    ),
    "starts what fits nowhere": (changed("if spec.cpus > host.cpus or", "if"), "test_impossible_needs_are_refused"),
    "forgets its seats": (changed("            self._seats.append(seat)\n", ""), "test_closing_ends_every_seat"),
    "returns before they have ended": (
        changed("                seat.thread.join()", "                pass"), "test_closing_ends_every_seat"
    ),
    "says not on which host a seat is": (changed('f"{socket.gethostname()}, pid', 'f"pid'), "test_messages_arrive_whole_and_in_order"),
    "has no host": (changed("memory=_memory())]", "memory=_memory(), alive=False)]"), "test_names_its_hosts"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of the example that its module imports."""
    monkeypatch.syspath_prepend(str(EXAMPLE))


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch, forked_children: Any) -> Iterator[None]:
    """Forks in the place of interpreters, which the example's own tests start; none that a wrong placement leaves behind outlives its
    test."""
    started: list[Any] = []
    start = forked_children.Popen if sys.platform == "linux" else subprocess.Popen

    def popen(*arguments: Any, **more: Any) -> Any:
        started.append(start(*arguments, **more))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    yield
    for process in started:
        process.kill()
        process.wait()


def test_a_right_placement_passes(run_conformance: Callable[..., Any]) -> None:
    """Subprocesses behind pipes pass every standard test."""
    outcomes = run_conformance("PlacementConformance", PLUGIN)
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


# What a wrong placement forgets to close is collected some time, and its threads meet pipes that are closed.
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning", "ignore::ResourceWarning"
)
@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_placement_is_caught(run_conformance: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, defect: str) -> None:
    """A placement with one defect fails the test that is meant to find it."""
    monkeypatch.setattr(placement, "SECONDS", 0.5)
    monkeypatch.setattr(placement, "QUICK", 0.25)
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("PlacementConformance", source, only=[caught_by], leaks=True)
    gc.collect()  # what it left open is collected here, and not in another test
    assert caught_by in outcomes.failed, f"passed {sorted(outcomes.passed)}"
