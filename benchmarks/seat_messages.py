"""What a message to a seat and its answer take, by placement: ``python -m benchmarks.seat_messages``.

The placement ``local``, and ``ray`` with each of its channels, take turns with 300 bytes there and back. Printed are medians of the rounds'
medians, in milliseconds, and the medians of the processor time of this process, with the threads of Ray in it.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from queue import SimpleQueue
from typing import Final

from llmasos.compose.replicas.local import LocalPlacement
from llmasos_hookspecs import Placement, SeatSpec
from llmasos_hookspecs.seat_program import ENTRY
from llmasos_placement_ray import Options
from llmasos_placement_ray.placement import RayPlacement

_MESSAGE: Final = b"echo " + bytes(300)
_TIMES: Final = 200


class Echo:
    """A seat that sends back what it is sent."""

    def __init__(self, placement: Placement) -> None:
        self._answers = SimpleQueue[bytes]()
        self._seat = placement.start(
            SeatSpec(model="m", number=0, entry=ENTRY, path=tuple(sys.path)), self._answers.put, lambda why: self._answers.put(why.encode())
        )
        self._ask()

    def round(self) -> tuple[float, float]:
        """Milliseconds of one answer, and of processor time, by the median and the mean of many."""
        taken, cpu = list[float](), time.process_time()
        for _ in range(_TIMES):
            began = time.perf_counter()
            self._ask()
            taken.append(time.perf_counter() - began)
        return 1e3 * statistics.median(taken), 1e3 * (time.process_time() - cpu) / _TIMES

    def _ask(self) -> None:
        self._seat.send(_MESSAGE)
        if (answer := self._answers.get()) != _MESSAGE[5:]:
            sys.exit(f"The seat {answer.decode()}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with contextlib.ExitStack() as running:
        placements: dict[str, Placement] = {"local": LocalPlacement()}
        for channel in ("socket", "ray"):
            placements[f"ray, channel {channel}"] = RayPlacement(Options(address="local", channel=channel))
        for each in placements.values():
            running.callback(each.close)
        echoes = {name: Echo(each) for name, each in placements.items()}
        found = {name: list[tuple[float, float]]() for name in echoes}
        for _ in range(rounds):
            for name, echo in echoes.items():
                found[name].append(echo.round())
    for name, rows in found.items():
        taken, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:20} {taken:6.3f} ms, {cpu:6.3f} ms of processor time")


if __name__ == "__main__":
    main()
