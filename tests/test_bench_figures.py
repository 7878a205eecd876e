"""The figures of ``make bench``: intervals, ratios, shares of the machine's limits, and the drawing."""

from __future__ import annotations

import ast
import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmarks import growth, search
from benchmarks.driver import EngineEnded
from benchmarks.figures import Figures, ratios, table
from benchmarks.growth import Curve, exponent
from benchmarks.intervals import interval, median, ratio
from benchmarks.peers import PEERS, peer_settings
from benchmarks.search import others

ENGINES = PEERS.with_name("engines")


class Machine:
    """1,000 tokens a second at most in a prefill, and 100 of a sequence whose weights have a byte."""

    def prefill(self, linear_weights: int) -> float:
        return 1000.0

    def decode(self, weight_bytes: int) -> float:
        return 100.0 / weight_bytes


def row(*speeds: float, ours: bool = False, kl: float | None = 0.001) -> Figures:
    return Figures(is_ours=ours, prefill=list(speeds), decode={1: list(speeds)}, kl=kl, weight_bytes=1)


def test_an_interval_is_students_over_logarithms() -> None:
    """Two rounds of 1 and of e squared: their mean is e, and the standard error of the logarithms 1."""
    found = interval([1.0, math.exp(2)])
    assert found.mean == pytest.approx(math.e)
    assert found.factor == pytest.approx(math.exp(12.706))
    assert interval([50.0, 50.0, 50.0]).shown(".0f") == "50 ±0%"
    assert interval([50.0]).shown(".0f") == "50"


def test_what_slows_both_engines_of_a_round_leaves_their_ratio_alone() -> None:
    """One round at half the speed."""
    found = ratio([100.0, 50.0, 100.0], [50.0, 25.0, 50.0])
    assert (found.mean, found.factor) == (pytest.approx(2.0), pytest.approx(1.0))


def test_only_exact_rows_are_compared() -> None:
    """Ours with each peer, where both are the same model as the reference."""
    figures = {
        "ours": row(20.0, 20.0, ours=True),
        "ours, rounded": row(90.0, 90.0, ours=True, kl=0.3),
        "peer": row(10.0, 10.0),
        "useless": row(99.0, 99.0, kl=0.27),
        "unknown": row(99.0, 99.0, kl=None),
    }
    assert ratios(figures) == ["ours / peer: prefill 2.00 ±0% x, batch 1 2.00 ±0% x"]


def test_a_row_shows_its_share_of_what_the_machine_allows() -> None:
    """In a prefill and in a decode of one sequence."""
    head, line = table({"ours": row(50.0, 50.0, ours=True)}, [1], Machine(), 1).splitlines()
    assert line[head.index("of GEMM") :].startswith("5%")
    assert line[head.index("of bandwidth") :].startswith("50%")


def test_rounds_that_warm_up_are_dropped() -> None:
    """Every speed of them, and no fact that is not one."""
    figures = row(1.0)
    figures.requests.append(1.0)
    figures.forget_rounds()
    assert (figures.prefill, figures.decode, figures.requests, figures.kl) == ([], {}, [], 0.001)


def test_an_exponent_is_the_slope_of_the_logarithms() -> None:
    """Cost in proportion that ends in a square; the last points tell it from the whole."""
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert exponent(sizes, [3 * size for size in sizes]) == pytest.approx(1.0)
    curve = Curve("s", "tokens", sizes, [1.0, 2.0, 4.0, 16.0, 64.0])
    whole, last = curve.exponents
    assert (whole, last) == (pytest.approx(1.5), pytest.approx(2.0))
    assert curve.sentence.endswith("exponent 1.50, of the last 3 2.00")


def test_a_run_of_growth_that_is_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point is kept once it is found; those of another loader are measured anew."""
    asked: list[int] = []

    def measure(loader: str, sizes: Sequence[int]) -> growth.Points:
        for size in sizes:
            asked.append(size)
            if size == 4 and asked.count(4) == 1:
                raise KeyboardInterrupt
            yield size, {"s": 3.0 * size}

    monkeypatch.setattr(growth, "PARTS", {"tokens": (measure, (1, 2, 4, 16))})
    output = tmp_path / "results" / "growth.json"
    with pytest.raises(KeyboardInterrupt):
        growth.main(output)
    growth.main(output)
    growth.main(output)
    assert asked == [1, 2, 4, 4, 16]
    (curve,) = json.loads(output.read_text(encoding="utf-8"))["curves"]
    assert (curve["sizes"], curve["values"]) == ([1, 2, 4, 16], [3, 6, 12, 48])
    growth.main(output, "torch")
    assert asked[5:] == [1, 2, 4, 16]


def test_the_settings_of_peers_are_those_that_their_drivers_take() -> None:
    """And so is each that the search tries; every peer with settings says how they were found."""
    for name, peer in tomllib.loads(PEERS.read_text(encoding="utf-8")).items():
        tree = ast.parse((ENGINES / f"{name}.py").read_text(encoding="utf-8"))
        init = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__init__")
        taken = {argument.arg for argument in (*init.args.args, *init.args.kwonlyargs)}
        assert set(peer["settings"]) <= taken
        assert set(peer["tried"]) <= taken
        assert peer["found"]
        assert peer_settings(name) == peer["settings"]
    assert peer_settings("llmasos_engine") == {}


def test_a_search_tries_what_is_not_set() -> None:
    """Each value of each setting but the one that the peer runs with; an empty table is what it runs with where nothing is set."""
    peer = {"settings": {"threads": 2}, "tried": {"threads": [1, 2, 4], "properties": [{}, {"A": 1}]}}
    assert list(others(peer)) == [("threads", 1), ("threads", 4), ("properties", {"A": 1})]


def test_a_search_goes_on_behind_a_setting_that_an_engine_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so of that one; every process that was started is ended."""
    opened: list[Any] = []

    class Process:
        def __init__(self, _module: str, options: dict[str, Any], _workload: object) -> None:
            if options["threads"] == 3:
                raise EngineEnded("No three.")
            self.seconds = 8.0 / options["threads"]
            opened.append(self)

        def ask(self, _what: str, **_: Any) -> float:
            return self.seconds

        def close(self) -> None:
            opened.remove(self)

    peers = tmp_path / "peers.toml"
    peers.write_text("[peer]\nsettings = { threads = 2 }\ntried = { threads = [3, 4] }\n")
    monkeypatch.setattr(search, "EngineProcess", Process)
    monkeypatch.setattr(search, "PEERS", peers)
    search.search(SimpleNamespace(prompts=[[1], [2]]), [], rounds=1, batches=[1])  # type: ignore[arg-type]  # of a workload it reads the prompts
    assert capsys.readouterr().out.splitlines() == [
        'peer, against {"threads": 2}:',
        "  threads = 3: not measured. No three.",
        "  threads = 4: prefill 2.00 x, batch 1 2.00 x",
    ]
    assert opened == []


def test_the_drawing_shows_rows_with_a_known_divergence(tmp_path: Path) -> None:
    """The same figures give the same file."""
    pytest.importorskip("matplotlib")
    from benchmarks.plot import draw

    figures = {"ours": row(20.0, 21.0, ours=True), "peer": row(10.0), "unknown": row(99.0, kl=None)}
    figures["peer"].decode.clear()  # it was stopped before that
    for name in ("one.svg", "two.svg"):
        draw(figures, [1], tmp_path / name)
    drawn = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert drawn == (tmp_path / "two.svg").read_text(encoding="utf-8")
    assert "<!-- ours -->" in drawn
    assert "<!-- unknown -->" not in drawn


def test_a_median_lies_between_two_values_95_times_in_100() -> None:
    """As often as of samples whose distribution is known; of few values between the least and the most."""
    assert median([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    samples = np.random.default_rng(0).exponential(size=(2_000, 60))
    held = sum(low <= math.log(2) <= high for _, low, high in map(median, samples.tolist()))
    assert 0.93 < held / len(samples) < 0.98
