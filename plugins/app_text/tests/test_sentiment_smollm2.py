"""The real SmolLM2 judges sentences of our own: thirty that are plainly positive, thirty plainly negative."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

llmasos = pytest.importorskip("llmasos")

from llmasos_app_text import classify, sentiment  # noqa: E402 - behind the check that core is there

pytestmark = pytest.mark.model

_LINES = (Path(__file__).parent / "data" / "sentiment.jsonl").read_text(encoding="utf-8").splitlines()
SENTENCES: list[dict[str, Any]] = [json.loads(line) for line in _LINES]


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Iterator[Any]:
    with llmasos.load_model(smollm2_gguf, loader="onnx") as model:
        yield model


def test_the_sentences_are_balanced() -> None:
    counts = {(row["label"], row["half"]) for row in SENTENCES}
    assert len(counts) == 4
    assert all(sum((row["label"], row["half"]) == count for row in SENTENCES) == 15 for count in counts)


def test_sentences_that_did_not_choose_the_wording_are_judged_right(smollm2: Any) -> None:
    """At least 95 % right and an AUC of at least 0.97 on the half that the wording was not chosen on."""
    held_out = [row for row in SENTENCES if row["half"] == "score"]
    task = sentiment.Sentiment(sentiment.Options())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: task.run(smollm2, sentiment.Inputs(text=row["text"])), held_out))
    right = [answer.label == row["label"] for answer, row in zip(answers, held_out, strict=True)]
    assert sum(right) / len(right) >= 0.95
    scores = {label: [a.probabilities["positive"] for a, row in zip(answers, held_out, strict=True) if row["label"] == label]
              for label in ("positive", "negative")}  # fmt: skip
    pairs = [(up > down) + (up == down) / 2 for up in scores["positive"] for down in scores["negative"]]
    assert sum(pairs) / len(pairs) >= 0.97


@pytest.mark.parametrize("name", ["sentiment", pytest.param("classify", marks=pytest.mark.long)])
def test_probabilities_sum_to_one_and_are_the_same_alone_and_in_a_batch(smollm2: Any, name: str) -> None:
    texts = [row["text"] for row in SENTENCES[:24:4]]
    if name == "sentiment":
        task: Any = sentiment.Sentiment(sentiment.Options())
        inputs: list[Any] = [sentiment.Inputs(text=text) for text in texts]
    else:
        task = classify.Classify(classify.Options())
        inputs = [classify.Inputs(text=text, labels=("food", "books", "travel", "music")) for text in texts]

    def run(each: Any) -> dict[str, float]:
        return task.run(smollm2, each).probabilities

    run(inputs[0])  # the prompt's beginning is computed once and kept; from here on all are alike
    alone = [run(each) for each in inputs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, inputs))
    for left, right in zip(alone, together, strict=True):
        assert sum(left.values()) == pytest.approx(1)
        assert right == pytest.approx(left, abs=1e-3)
