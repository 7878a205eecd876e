"""The built-in placement passes the kit of its kind."""

from __future__ import annotations

import os
import subprocess

import pytest

from llmasos.compose.replicas import local
from llmasos.compose.replicas.local import LocalPlacement
from llmasos_hookspecs import ResourceError
from llmasos_hookspecs.testing import PlacementConformance


class TestConformance(PlacementConformance):
    """On each change with forks in the place of its interpreters, as all of core's tests of replicas."""

    module = "llmasos.compose.replicas.local"


@pytest.mark.long
class TestInterpreters(PlacementConformance):
    module = "llmasos.compose.replicas.local"

    @pytest.fixture(autouse=True)
    def interpreters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "subprocess", subprocess)


def test_seats_have_the_cores_of_their_number() -> None:
    """Two seats with half of the cores each share none, and a seat that is started again gets the same."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("The machine has one core.")
    placement = LocalPlacement()
    half = len(cores) // 2
    seats = [placement.start(PlacementConformance.spec(number, cpus=half), print, str) for number in (0, 1, 0)]
    pids = [int(seat.where.rpartition(" ")[2]) for seat in seats]
    found = []
    for seat, pid in zip(seats, pids, strict=True):
        while (affinity := sorted(os.sched_getaffinity(pid))) == cores:  # until the child has set it
            assert seat.send(b"echo ")
        found.append(affinity)
    placement.close()
    assert found == [cores[:half], cores[half : 2 * half], cores[:half]]


def test_what_does_not_fit_is_one_sentence() -> None:
    """It says what was asked for, what there is, and what to do."""
    spec = PlacementConformance.spec(accelerators=1)
    with pytest.raises(ResourceError, match=r"0 cores, 0 bytes and 1 accelerators of its own.*lower model\.replicas"):
        LocalPlacement().start(spec, print, print)
