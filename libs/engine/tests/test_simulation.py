"""``make simulate`` at a size that every run of the tests can afford."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

pytestmark = pytest.mark.slow

LONG = settings.default.max_examples >= 500
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
POLICIES = sorted(entry.name for entry in entry_points(group="llmasos.schedulers"))


@pytest.fixture(scope="module")
def simulate() -> Any:
    """The simulation as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import simulate
    finally:
        sys.path.remove(str(BENCHMARKS))
    return simulate


@pytest.mark.parametrize("name", POLICIES)
def test_every_request_is_served_once_at_scale(simulate: Any, name: str) -> None:
    """Hundreds of requests pass through each policy, with `make test-long` thousands; the run itself checks that none is lost."""
    requests = 3000 if LONG else 500
    _, _, figures = simulate.simulate(("busy", name, requests, requests // 10, 1))
    assert figures["requests"] == requests
    assert 0 < figures["jain"] <= 1
    assert figures["ttft_p50"] > 0


def test_fair_holds_a_flood_back_and_fifo_does_not(simulate: Any) -> None:
    """One tenant sends twice what the server can do: under ``fair`` the others hardly notice, under ``fifo`` they queue behind it."""
    factor = {}
    requests, tenants = (10_000, 4_000) if LONG else (3_000, 1_200)
    for name in ("fair", "fifo"):
        before, after = (simulate.simulate((scenario, name, requests, tenants, 2))[2]["ttft_p95"] for scenario in ("quiet", "flood"))
        factor[name] = after / before
    assert factor["fair"] < 2.0
    assert factor["fifo"] > 20


def test_the_tables_name_every_policy_and_what_missed_its_bound(simulate: Any) -> None:
    """A decision that takes too long is marked, and fails the run."""
    rows = {name: simulate.simulate(("quiet", name, 1000, 50, 3))[2] for name in ("fifo", "fair")}
    results = dict.fromkeys(simulate.SCENARIOS, rows)
    quick = {"p50": 0.1, "p99": 0.2, "p99.9": 0.3, "max": 0.4, "collector": 20.0}
    slow = quick | {"p99.9": 5.0, "max": 9.0}
    text, failed = simulate.summary(results, {"fifo": {1: quick}, "fair": {1: quick}})
    assert not failed
    assert "over" not in text
    text, failed = simulate.summary(results, {"fifo": {1: quick}, "fair": {1: slow}})
    assert failed
    assert "over 2" in text


def test_jain_is_one_for_equals(simulate: Any) -> None:
    """1 where all get the same, 1/n where one gets all."""
    assert simulate.report.jain(np.ones(7)) == pytest.approx(1)
    assert simulate.report.jain(np.array([5.0, 0, 0, 0])) == pytest.approx(0.25)
