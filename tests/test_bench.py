"""``llmasos bench`` measures what was asked, each composition in turn."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
from benchmarks.serving.client import Seen, overload

from llmasos_hookspecs.testing import tiny_checkpoint

from .conftest import Run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Hugging Face folder with a random Llama that speaks in bytes."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder, max_position_embeddings=1024)
    return str(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``LLMASOS_HOME`` of all commands here, so that an engine is built once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def cli(llmasos_cli: Run, home: Path) -> Run:
    return lambda *arguments: llmasos_cli(*arguments, LLMASOS_HOME=str(home))


def test_bench_gives_figures_for_each_number_of_requests(cli: Run, tiny: str) -> None:
    """By JSON, with the loader's label."""
    asked = ("--batch", "1", "--batch", "3", "--prompt-tokens", "40", "--new-tokens", "5", "--rounds", "2")
    done = cli("bench", tiny, "--loader", "onnx", *asked, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["batch"], row["new_tokens"], row["rounds"]) for row in rows] == [(1, 5, 2), (3, 5, 2)]
    for row in rows:
        assert "onnx" in row["loader"]
        assert 30 <= row["prompt_tokens"] <= 50
        assert row["ttft"] > 0
        assert row["decode"] > 0
        assert row["prefill"] * row["ttft"] / row["batch"] / row["prompt_tokens"] == pytest.approx(1)


def test_bench_shows_a_table_for_people(cli: Run, tiny: str) -> None:
    """A line for each composition and number of requests."""
    done = cli("bench", tiny, "--loader", "onnx", "--batch", "2", "--prompt-tokens", "16", "--new-tokens", "2", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()
    assert head.split("\t") == ["model", "loader", "dtype", "requests", "first token s", "prefill tok/s", "decode tok/s"]
    assert row.split("\t")[3] == "2"


def test_a_prompt_that_does_not_fit_is_one_sentence(cli: Run, tiny: str) -> None:
    """And wrong use."""
    done = cli("bench", tiny, "--loader", "onnx", "--prompt-tokens", "2000", "--rounds", "1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "context" in done.stderr


def test_the_throughput_under_overload_is_that_from_the_first_refusal_to_the_last_request() -> None:
    """A stream counts with the tokens of those of its pieces that came meanwhile."""
    early = Seen(began=0.0, status=200, ended=3.0, tokens=8, came=[0.5, 1.0, 2.0, 3.0])
    refused = [Seen(began=at, status=429, ended=at + 0.5) for at in (0.5, 2.0)]
    late = Seen(began=2.5, status=200, ended=9.0, tokens=3, came=[2.5, 4.0, 8.0])
    assert overload([early, *refused, late]) == {"seconds": 1.5, "tokens": 4}
    assert overload([early, attrs.evolve(late, began=3.5)]) == {"seconds": 3.5, "tokens": 9}
