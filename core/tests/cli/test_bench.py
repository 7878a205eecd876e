"""``llmasos bench`` measures what was asked, each composition in turn."""

from __future__ import annotations

import json

import pytest


def test_bench_gives_figures_for_each_number_of_requests(cli, tiny):
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


def test_bench_shows_a_table_for_people(cli, tiny):
    done = cli("bench", tiny, "--loader", "onnx", "--batch", "2", "--prompt-tokens", "16", "--new-tokens", "2", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()
    assert head.split("\t") == ["model", "loader", "dtype", "requests", "first token s", "prefill tok/s", "decode tok/s"]
    assert row.split("\t")[3] == "2"


def test_a_prompt_that_does_not_fit_is_one_sentence(cli, tiny):
    done = cli("bench", tiny, "--loader", "onnx", "--prompt-tokens", "2000", "--rounds", "1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "context" in done.stderr
