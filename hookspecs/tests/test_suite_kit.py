"""``SuiteConformance`` passes a right suite and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hookspecs.tests.planted_faults import one_for_each_check

PLUGIN = """
import attrs
import numpy as np
from llmasos_hookspecs import CapacityExceeded, Component, Figure, Row, Section, SuiteResult, hookimpl

@attrs.frozen
class Options:
    length: int = 12

def steps(engine, slot, tokens, size=64):
    found, done = [], 0
    while done < len(tokens):
        try:
            found.append(engine.step([Row(slot, tokens[done:done + size], done, "all")])[0])
        except CapacityExceeded:
            engine.truncate(slot, done)
            size = max(1, size // 2)
            continue
        done += size
    return np.concatenate(found)

class Entropy:
    def __init__(self, options): self.options = options

    def measure(self, model):
        known = model.remember(f"entropy {self.options.length}", lambda: {"each": self.entropies(model)})
        each = known["each"]
        figure = Figure(name="entropy", value=float(np.mean(each)), error=float(np.std(each)), unit="nats", better="lower")
        return SuiteResult(figures=(figure,), facts={"windows": len(each)}, notes=("Over random text.",))

    def entropies(self, model):
        found = []
        for window in model.windows(2, self.options.length):
            engine = model.engine()
            slot = engine.open()
            logits = steps(engine, slot, window.tolist()).astype(np.float64)
            engine.close(slot)
            chances = np.exp(logits - logits.max(-1, keepdims=True))
            chances /= chances.sum(-1, keepdims=True)
            found.append(float(-(chances * np.log(chances + 1e-30)).sum(-1).mean()))
        return found

    def sections(self, results):
        rows = tuple((label, str(result.figure("entropy"))) for label, result in results.items())
        return [Section(title="Entropies", columns=("model", "entropy"), rows=rows)]

@hookimpl
def llmasos_component(): return Component(summary="Entropy of predictions.", options=Options)

@hookimpl
def llmasos_create_suite(options): return Entropy(options)
"""


def changed(*pairs: str) -> str:
    """The plugin with each old text (even places) replaced by the new one after it."""
    found = PLUGIN
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in found, old
        found = found.replace(old, new)
    return found


WRONG = {
    "has no measure": (changed("def measure", "def evaluate"), "test_suite_is_whole"),
    "measures nothing": (changed("figures=(figure,)", "figures=()"), "test_figures_are_sound"),
    "has a figure twice": (changed("figures=(figure,)", "figures=(figure, figure)"), "test_figures_are_sound"),
    "gives numpy's numbers": (changed("float(np.mean(each))", "np.float32(np.mean(each))"), "test_figures_are_sound"),
    "gives NaN": (changed("float(np.mean(each))", 'float("nan")'), "test_figures_are_sound"),
    "has a negative error": (changed("float(np.std(each))", "-1.0"), "test_figures_are_sound"),
    "says an unknown direction": (changed('"lower"', '"smaller"'), "test_figures_are_sound"),
    "has a sentence for a name": (changed('name="entropy"', 'name="The entropy"'), "test_figures_are_sound"),
    "has facts that are no data": (changed('"windows": len(each)', '"windows": np.array(each)'), "test_facts_are_plain_data"),
    "has notes that are no sentences": (changed('"Over random text."', '"random"'), "test_facts_are_plain_data"),
    "names figures after the model": (changed('unit="nats"', 'unit=model.checkpoint.config["model_type"]'),
                                      "test_every_model_has_the_same_figures"),
    "has one more for a stage": (
        changed("figures=(figure,)", "figures=(figure,) if model.base is None else (figure, Figure(name='b', value=1.0))"),
        "test_every_model_has_the_same_figures",
    ),
    "is random": (changed("float(np.mean(each))", "float(np.mean(each) + np.random.rand())"), "test_the_same_model_measures_the_same"),
    "says a constant": (changed("float(np.mean(each))", "1.0", "float(np.std(each))", "None"), "test_tells_models_apart"),
    "leaves slots open": (changed("engine.close(slot)", "pass"), "test_leaves_the_engine_as_it_was"),
    "shuts the engine down": (changed("engine.close(slot)", "engine.close(slot); engine.shutdown()"), "test_leaves_the_engine_as_it_was"),
    "gives up where a step is too large": (changed("except CapacityExceeded", "except KeyError"), "test_makes_do_with_small_steps"),
    "loses tokens where a step is too large": (
        changed("engine.truncate(slot, done)", "engine.truncate(slot, done)\n            tokens = tokens[:max(done + 2, 2)]"),
        "test_makes_do_with_small_steps",
    ),
    "forgets in what it remembers": (
        changed('"each": self.entropies(model)}', '"each": [*self.entropies(model), self.__dict__.setdefault("count", 9.0)]}',
                'each = known["each"]', 'each = known["each"][:2 if "count" in self.__dict__ else 3]'),
        "test_what_is_remembered_is_not_measured_again",
    ),
    "has notes that cannot be called": (changed("def sections", "notes = ()\n    def sections"), "test_suite_is_whole"),
    "notes no sentence of two models": (
        changed("def sections", "def notes(self, results): return list(results)\n    def sections"), "test_notes_and_page_are_text"
    ),
    "draws no page of nothing": (
        changed("def sections", "def page(self, report): return f'<p>{min(report.models)}</p>'\n    def sections"),
        "test_notes_and_page_are_text",
    ),
    "draws bytes": (
        changed("def sections", "def page(self, report): return b'<p>'\n    def sections"), "test_notes_and_page_are_text"
    ),
    "has a crooked table": (changed('rows = tuple((label, ', 'rows = tuple((label, "?", '), "test_sections_can_be_drawn"),
    "needs a stage to compare": (changed("rows = ", 'results["stage"]; rows = '), "test_sections_can_be_drawn"),
}  # fmt: skip


def test_a_right_suite_passes(run_conformance: Callable[..., Any]) -> None:
    """A suite that remembers what is slow passes every standard test."""
    outcomes = run_conformance("SuiteConformance", PLUGIN)
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


def test_a_suite_of_the_task_model_passes(run_conformance: Callable[..., Any]) -> None:
    """One that asks the model as applications do, and has neither engine nor sections."""
    plugin = PLUGIN.replace("self.entropies(model)}", "[model.model().score('a', ['b'])[0].logprob]}")
    plugin = plugin.replace("def sections", "def _sections")
    outcomes = run_conformance("SuiteConformance", plugin, "blind = True")
    assert not outcomes.failed, outcomes.messages
    assert outcomes.skipped == {"test_makes_do_with_small_steps", "test_sections_can_be_drawn", "test_tells_models_apart"}


def test_a_suite_that_computes_nothing_need_not_tell_weights_apart(run_conformance: Callable[..., Any]) -> None:
    """One that says how large a model is, whatever it computes."""
    plugin = changed(
        'known = model.remember(f"entropy {self.options.length}", lambda: {"each": self.entropies(model)})',
        'known = {"each": [float(model.engine().info.weight_bytes)]}',
    )
    outcomes = run_conformance("SuiteConformance", plugin)
    assert not outcomes.failed, outcomes.messages
    assert outcomes.skipped == {"test_tells_models_apart"}


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_suite_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """A suite with one defect fails the test that is meant to find it."""
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("SuiteConformance", source, only=[caught_by])
    assert not outcomes.collection_errors
    assert caught_by in outcomes.failed, f"passed {sorted(outcomes.passed)}"
