"""What is sent, in which order, and what follows from the times."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from llmasos_command_bench.texts import texts
from llmasos_command_bench.throughput import measure_throughput
from llmasos_command_bench.verb import make
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing import ByteTokenizer, SandboxCommandContext, ScriptedCommandModel, run_command


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only the models of ``Timed`` advance."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


class Timed(ScriptedCommandModel):
    """Takes 2 seconds for a batch's first tokens, and ``step`` seconds for each token after them."""

    def __init__(self, clock: list[float], step: float, log: list[tuple[Any, int, int]] | None = None) -> None:
        super().__init__()
        self._clock, self._step, self._log = clock, step, log

    def batch(self, prompts: Any, **sampling: Any) -> Any:
        self._clock[0] += 2 + self._step * (sampling["max_new_tokens"] - 1)
        if self._log is not None:
            self._log.append((self, len(prompts), sampling["max_new_tokens"]))
        return super().batch(prompts, **sampling)


def test_figures_follow_from_the_times(clock: list[float]) -> None:
    """First tokens take what a batch of one new token takes; decode has the rest."""
    (slow, fast) = measure_throughput([Timed(clock, 0.5), Timed(clock, 0.25)], [1, 4], prompt_tokens=40, new_tokens=5, rounds=2)
    assert [(each.batch, each.new_tokens, each.rounds, each.ttft) for each in slow] == [(1, 5, 2, 2.0), (4, 5, 2, 2.0)]
    assert [each.decode for each in slow] == pytest.approx([1 / 0.5, 4 / 0.5])
    assert [each.decode for each in fast] == pytest.approx([1 / 0.25, 4 / 0.25])
    assert all(each.prefill == pytest.approx(each.batch * each.prompt_tokens / 2) for each in (*slow, *fast))
    assert all(37 <= each.prompt_tokens <= 42 for each in slow)


def test_models_take_turns_and_the_first_round_does_not_count(clock: list[float]) -> None:
    """Every round has both models, each with one new token and then with all of them."""
    log: list[tuple[Any, int, int]] = []
    models = [Timed(clock, 1, log), Timed(clock, 1, log)]
    measured = measure_throughput(models, [3], prompt_tokens=20, new_tokens=4, rounds=2)
    assert log == [(model, 3, new) for _ in range(3) for model in models for new in (1, 4)]
    assert [row[0].rounds for row in measured] == [2, 2]


def test_no_two_prompts_share_a_prefix() -> None:
    """Beyond the end of the text too, where its pieces come again."""
    found = list(itertools.islice(texts(ByteTokenizer(), 40), 400))
    heads = [text.partition(" ")[0] for text in found]
    assert len(set(heads)) == 400
    assert not any(one != other and other.startswith(one) for one in heads[:20] for other in heads)
    assert all(35 <= len(text.encode()) <= 45 for text in found)


def test_a_prompt_longer_than_the_text_is_refused() -> None:
    with pytest.raises(RequestError, match="ask for shorter ones"):
        texts(ByteTokenizer(), 10_000_000)


def test_what_does_not_fit_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """With the context's size; a model behind it in the list costs no time either."""
    context = SandboxCommandContext(root=tmp_path)
    done = run_command(make(context), "mine", "--prompt-tokens", "2000", "--new-tokens", "64")
    assert done.code == 2
    assert "do not fit the context of 2048 tokens that mine has" in done.error
    assert context.scripted.calls == []


def test_each_model_runs_on_each_loader(tmp_path: Path) -> None:
    """One row for each, at each number of requests, with what the model says of itself."""
    context = SandboxCommandContext(root=tmp_path)
    sizes = ("--batch", "1", "--batch", "2", "--prompt-tokens", "20", "--new-tokens", "2", "--rounds", "1")
    done = run_command(make(context), "a", "b", "--loader", "onnx", "--loader", "torch", *sizes, "--json")
    assert done.code == 0, done.errors
    rows = json.loads(done.output)
    assert [(row["model"], row["batch"]) for row in rows] == [(name, batch) for name in "aabb" for batch in (1, 2)]
    assert {row["dtype"] for row in rows} == {"float32"}
    assert context.asked == ["a", "a", "b", "b"]
