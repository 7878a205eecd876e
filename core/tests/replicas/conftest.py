"""Replicas as forks of a process that has imported what they need. The placement starts interpreters where
what they import is tested, in a program that is a process of its own, and with ``make test-long`` in the kit of placements."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from core.tests.forked_children import ForkedChildren

from llmasos.compose.replicas import local


@pytest.fixture(scope="module", autouse=True)
def forked_replicas(forked_children: ForkedChildren) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux":
            patch.setattr(local, "subprocess", forked_children)
        yield
