"""Answers are measured as scikit-learn, sacreBLEU and SQuAD measure them, and models stand side by side."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from llmasos_hookspecs import PluginError, RequestError
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel
from llmasos_suite_quality import task_answers as evaluation
from llmasos_suite_quality.metrics import area_under_curve, classification_metrics, text_metrics, translation_metrics

core = pytest.importorskip("llmasos.cli.command_context", reason="Core reads a task's inputs.")
guarded = pytest.importorskip("llmasos_plugin_calls.guarded_task").guarded


def evaluate_task(name: str, task: Any, *rest: Any, **how: Any) -> evaluation.TaskEvaluation:
    """With the task as a command gets it."""
    return evaluation.evaluate_task(core.OpenedTask(name, task), *rest, **how)


def test_a_confusion_table_and_its_metrics() -> None:
    found = classification_metrics(["a", "a", "a", "b", "b", "c"], ["a", "a", "b", "b", "b", "d"])
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.confusion["a"] == {"a": 2, "b": 1, "c": 0, "d": 0}
    assert set(found.confusion) == {"a", "b", "c"}
    assert (found.labels["a"].precision, found.labels["a"].recall) == (1.0, pytest.approx(2 / 3))
    assert found.labels["b"].f1 == pytest.approx(0.8)
    assert (found.labels["c"].f1, found.labels["d"].support) == (0.0, 0)
    assert found.macro_f1 == pytest.approx((0.8 + 0.8 + 0.0) / 3)


@given(st.lists(st.tuples(st.sampled_from((0.0, 0.1, 0.5, 0.9)), st.booleans()), min_size=2, max_size=30))
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(pairs: list[tuple[float, bool]]) -> None:
    positives = [score for score, positive in pairs if positive]
    negatives = [score for score, positive in pairs if not positive]
    scores, truth = [score for score, _ in pairs], [positive for _, positive in pairs]
    if not positives or not negatives:
        with pytest.raises(RequestError, match="both kinds"):
            area_under_curve(scores, truth)
        return
    wins = [(p > n) + (p == n) / 2 for p, n in itertools.product(positives, negatives)]
    assert area_under_curve(scores, truth) == pytest.approx(sum(wins) / len(wins))


def test_translations_are_scored_by_sacrebleu() -> None:
    references = ["The cat sat on the mat.", "It is raining heavily today."]
    assert translation_metrics(references, references) == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}
    worse = translation_metrics(references, ["The cat sat on a mat.", "It rains heavily now."])
    assert 0 < worse["bleu"] < 100
    assert 0 < worse["chrf"] < 100
    assert translation_metrics(["今天天气很好。"], ["今天天气很好。"], target="Chinese")["bleu"] == pytest.approx(100)


def test_texts_are_compared_without_case_articles_and_punctuation() -> None:
    assert text_metrics(["The Eiffel Tower."], ["eiffel tower"]) == {"exact": 1.0, "f1": 1.0}
    assert text_metrics(["in 1869"], ["It was built in 1869"]) == {"exact": 0.0, "f1": pytest.approx(4 / 7)}
    assert text_metrics(["", "天气好"], ["", "天气"])["f1"] == pytest.approx((1 + 4 / 5) / 2)


def test_metrics_of_nothing_are_refused() -> None:
    with pytest.raises(RequestError, match="at least one"):
        classification_metrics([], [])


@attrs.frozen(kw_only=True)
class Inputs:
    text: str


@attrs.frozen(kw_only=True)
class Output:
    label: str
    probabilities: dict[str, float]


class Choose:
    """Labels a text by which of two words the model finds likelier."""

    inputs = Inputs
    output = Output

    def run(self, model: Any, inputs: Inputs) -> Output:
        if inputs.text == "refuse":
            raise RequestError("no")
        choice = model.choose(f"{inputs.text}:", ["good", "bad"])
        return Output(label=choice.text, probabilities=dict(zip(("good", "bad"), choice.probabilities, strict=True)))


def _model(accuracy: float) -> ScriptedTaskModel:
    def likelihood(prompt: str, word: str) -> float:
        number = int(prompt.rstrip(":"))
        right = "good" if number % 2 else "bad"
        return 0.0 if (word == right) == (number < accuracy * 20) else -2.0

    return ScriptedTaskModel(likelihood=likelihood)


def test_models_stand_side_by_side() -> None:
    examples = [{"text": str(n), "label": "good" if n % 2 else "bad", "half": "other"} for n in range(20)]
    found = evaluate_task("choose", Choose(), {"best": _model(1.0), "worse": _model(0.5)}, examples)
    assert [row.metrics["accuracy"] for row in found.rows] == [1.0, 0.5]
    assert [row.metrics["auc"] for row in found.rows] == [1.0, 0.5]
    columns, lines = found.table()
    assert columns == ["model", "accuracy", "macro_f1", "auc", "examples", "errors", "examples/s"]
    assert lines[0][:2] == ["best", "1.000"]
    confusion = found.rows[1].classification
    assert confusion is not None
    assert confusion.confusion == {"bad": {"bad": 5, "good": 5}, "good": {"bad": 5, "good": 5}}


@attrs.frozen(kw_only=True)
class Said:
    text: str


class Repeat:
    """Says what it is given."""

    inputs = Inputs
    output = Said

    def run(self, model: Any, inputs: Inputs) -> Said:
        return Said(text=inputs.text)


class Translated(Repeat):
    metrics = ("translation",)


class Both(Repeat):
    metrics = ("classification", "text")


class Unknown(Repeat):
    metrics = ("charm",)


@pytest.mark.parametrize(
    ("task", "named"),
    [(Repeat(), ["exact", "f1"]), (Translated(), ["bleu", "chrf"]), (Both(), ["accuracy", "macro_f1", "exact", "f1"])],
)
def test_a_task_says_its_metrics_whatever_it_is_called(task: Any, named: list[str]) -> None:
    """Without a word of the task, labels are told apart from texts by the output's ``label``; behind the guard it is the same."""
    examples = [{"text": "It rains.", "expected": "It rains."}, {"text": "It snows.", "expected": "It is snowing."}]
    for each in (task, guarded(task, "task")):
        row = evaluate_task("translate", each, {"model": _model(1.0)}, examples).rows[0]
        assert list(row.metrics) == named
        assert (row.classification is not None) == ("accuracy" in named)


def test_a_metric_that_the_contract_does_not_know_is_named() -> None:
    with pytest.raises(PluginError, match="asks for the metric 'charm'; the metrics are classification, translation, text"):
        evaluate_task("odd", Unknown(), {"model": _model(1.0)}, [{"text": "1", "expected": "1"}])


def test_a_refused_example_counts_as_wrong() -> None:
    examples = [{"text": "1", "expected": "good"}, {"text": "refuse", "expected": "bad"}]
    row = evaluate_task("choose", Choose(), {"model": _model(1.0)}, examples).rows[0]
    assert (row.errors, row.metrics) == (1, {"accuracy": 0.5, "macro_f1": 0.5})


def test_examples_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,truth\n1,good\n2,bad\n")
    row = evaluate_task("choose", Choose(), {"model": _model(1.0)}, tmp_path / "data.csv", expected="truth").rows[0]
    assert (row.examples, row.metrics["accuracy"]) == (2, 1.0)


def test_an_example_without_an_answer_is_named() -> None:
    with pytest.raises(RequestError, match="row 0 has none of label, expected"):
        evaluate_task("choose", Choose(), {}, [{"text": "1"}])
    with pytest.raises(RequestError, match="row 0 has no 'truth'"):
        evaluate_task("choose", Choose(), {}, [{"text": "1"}], expected="truth")
    with pytest.raises(RequestError, match="no examples"):
        evaluate_task("choose", Choose(), {}, [])


def test_an_example_that_does_not_fit_is_told_before_any_is_run(tmp_path: Path) -> None:
    """With its line; the progress of those that are run is told up to the last."""
    file, asked, told = tmp_path / "data.jsonl", [], []

    class Asked(Choose):
        def run(self, model: Any, inputs: Inputs) -> Output:
            asked.append(inputs.text)
            return super().run(model, inputs)

    file.write_text('{"text": "1", "label": "good"}\n{"text": 2, "label": "bad"}\n')
    with pytest.raises(RequestError, match=r"data\.jsonl, line 2: text is 2"):
        evaluate_task("choose", Asked(), {"model": _model(1.0)}, file)
    assert asked == []
    examples = [{"text": str(n), "label": "good"} for n in range(5)]
    evaluate_task(
        "choose", Asked(), {"model": _model(1.0)}, examples, progress=lambda label, now: told.append((label, now.done)), workers=2
    )
    assert sorted(asked) == ["0", "1", "2", "3", "4"]
    assert told[-1] == ("model", 5)
