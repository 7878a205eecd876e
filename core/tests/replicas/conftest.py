"""Replicas as forks of a process that has imported what they need. How the placement starts them by itself is tested in
``test_local_placement.py``, and where a program that is a process of its own has replicas."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from core.tests.forked_children import ForkedChildren

from llmasos.compose.replicas import local


@pytest.fixture(scope="module", autouse=True)
def forked_replicas(request: pytest.FixtureRequest, forked_children: ForkedChildren) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux" and request.path.name != "test_local_placement.py":
            patch.setattr(local, "subprocess", forked_children)
        yield
