"""What a decode step costs the runtime, in function calls: these are the same on any machine, and after a step of a real model, whose
weights have emptied the processor's caches, each takes some microseconds (``make bench-loop``)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

from llmasos_engine import runner

_ENGINE = str(Path(runner.__file__).parent)


def calls_of_a_step(stepped: Any) -> list[str]:
    """Names of the functions of ``llmasos_engine`` that a step calls."""
    names: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_ENGINE):
            names.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        stepped.step()
    finally:
        sys.setprofile(None)
    return names


def decoding(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any, sequences: int) -> Any:
    """A runner whose sequences have begun to decode."""
    stepped = make_runner(hash_engine(), fifo)
    for number in range(sequences):
        stepped.add(request_of([number, 2, 3], 20, ignore_eos=True))
    for _ in range(3):
        stepped.step()
    return stepped


def test_a_decode_step_calls_few_functions(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """37 for one sequence and 15 for each more were measured; a step that calls more for every token should have a reason."""
    one, eight = (calls_of_a_step(decoding(make_runner, hash_engine, request_of, fifo, sequences)) for sequences in (1, 8))
    assert len(one) <= 38, one
    assert len(eight) - len(one) <= 7 * 16, len(eight)


def test_a_decode_step_calls_nothing_for_what_nobody_uses(make_runner: Any, hash_engine: Any, request_of: Any, fifo: Any) -> None:
    """Deadlines, drafts, stop strings, penalties, random draws and the ranks of sequences that all fit: none were asked for."""
    called = set(calls_of_a_step(decoding(make_runner, hash_engine, request_of, fifo, 8)))
    assert "Scheduler._add_decode_row" in called
    assert called.isdisjoint(
        {"Runner._expire", "Scheduler._add_row", "StopScanner.push", "SamplingState.changed", "Weights.__init__", "GuardedPolicy.order"}
    )
