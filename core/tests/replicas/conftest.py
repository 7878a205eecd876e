"""Replicas as forks of a process that has imported what they need. How the placement starts them by itself is tested in
``test_local_placement.py``, and where a program that is a process of its own has replicas."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from llmasos.compose.replicas import local

from .forked_seats import ForkedSeats


@pytest.fixture(scope="session")
def seats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedSeats]:
    with ForkedSeats(tmp_path_factory.mktemp("seats")) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def forked(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux" and not request.path.name.startswith("test_local_placement"):
            patch.setattr(local, "subprocess", request.getfixturevalue("seats"))
        yield
