"""What the suite says of models together: flips of pairs and of controls, and the tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from llmasos_hookspecs import SuiteResult
from llmasos_hookspecs.testing import SandboxModel, ScriptedTaskModel, tiny_checkpoint
from llmasos_suite_safety.options import Options
from llmasos_suite_safety.pairs import stereotype_pairs
from llmasos_suite_safety.part import some
from llmasos_suite_safety.safety import SafetySuite

SUITE = SafetySuite(
    Options(pairs=200, controls=100, stories=2, encounters=2, secrets=1, plans=1, samples=2, tokens=4, requests=1, languages=("en",))
)
CHECKPOINT = tiny_checkpoint("llama")


def measured(seed: int, *, people: float, things: float) -> SuiteResult:
    """A model whose likelihoods are noise; those of a share of sentences about people, and about things, come from another seed."""
    fitting = {pair.fitting for pair in some(stereotype_pairs(("en",)), 200)} | {
        pair.other for pair in some(stereotype_pairs(("en",)), 200)
    }
    noise = ScriptedTaskModel().score
    changed = ScriptedTaskModel().score

    def likelihood(prompt: str, said: str) -> float:
        share = people if prompt in fitting else things
        (place,) = noise(prompt, [said])
        if share and (-place.logprob * 1000) % 1 < share:
            (other,) = changed(f"{seed} {prompt}", [said])
            return other.logprob
        return place.logprob

    return SUITE.measure(SandboxModel(checkpoint=CHECKPOINT, label=str(seed), scripted=ScriptedTaskModel(likelihood=likelihood)))


def test_flips_of_pairs_are_told_beside_those_of_controls() -> None:
    """A change of both is noise, and one of pairs alone is not; the first model is what the others are compared with."""
    results = {
        "base": measured(0, people=0, things=0),
        "same": measured(0, people=0, things=0),
        "noise": measured(1, people=0.5, things=0.5),
        "bias": measured(2, people=0.7, things=0),
    }
    same, noise, bias = SUITE.notes(results)
    assert same == "same: no pair is on another side than in base."
    assert noise.endswith("so the changes are no more than noise, even where the mean stays.")
    assert "and 0.0% of the controls are on another side than in base" in bias
    assert bias.endswith("changed what it holds against people more than noise would.")
    flips, axes, persons = SUITE.sections(results)
    assert flips.title == "Pairs that changed sides against base"
    assert [row[:2] for row in flips.rows] == [(label, what) for label in ("same", "noise", "bias") for what in ("pairs", "controls")]
    assert flips.bars["same: pairs"] == (0.0, 0.0)
    assert flips.bars["bias: pairs"][0] > 0.2
    assert flips.bars["bias: controls"][0] == 0
    gained, lost = (int(cell) for cell in flips.rows[4][3:5])
    assert flips.rows[4][2].startswith(f"{(gained + lost) / 200:.1%} ± ")
    assert axes.columns == ("", "base", "same", "noise", "bias")
    assert [row[0] for row in axes.rows] == ["gender", "age", "place", "origin", "income", "schooling", "family", "work"]
    assert [row[0] for row in persons.rows][:2] == ["a woman", "a man"]


def test_one_model_has_no_flips() -> None:
    results = {"base": measured(0, people=0, things=0)}
    assert SUITE.notes(results) == []
    assert [section.title for section in SUITE.sections(results)] == ["Stereotypes by axis", "Sentiment by person"]
    assert SUITE.sections({}) == []


def test_models_that_were_asked_other_pairs_are_not_compared() -> None:
    """Results of another size, remembered from elsewhere, are left out."""
    whole = measured(0, people=0, things=0)
    shorter = SafetySuite(
        Options(pairs=10, controls=5, stories=2, encounters=2, secrets=1, plans=1, samples=2, tokens=4, requests=1, languages=("en",))
    ).measure(SandboxModel(checkpoint=CHECKPOINT))
    assert SUITE.notes({"base": whole, "other": shorter}) == []


def test_a_run_that_was_ended_goes_on_where_it_was() -> None:
    """Each part is remembered when it is complete, so that only what failed is asked again."""
    known: dict[str, Mapping[str, Any]] = {}

    class Remembering(SandboxModel):
        def remember(self, key: str, measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
            return known.get(key) or known.setdefault(key, measure())

    def ended(_text: str, _sampling: Mapping[str, Any]) -> str:
        raise KeyboardInterrupt

    stopped, going_on = ScriptedTaskModel(ended), ScriptedTaskModel()
    with pytest.raises(KeyboardInterrupt):
        SUITE.measure(Remembering(checkpoint=CHECKPOINT, scripted=stopped))
    whole = SUITE.measure(Remembering(checkpoint=CHECKPOINT, scripted=going_on))
    assert not {str(call.prompt) for call in stopped.calls if call.method == "score"} & {str(call.prompt) for call in going_on.calls}
    assert whole == SUITE.measure(SandboxModel(checkpoint=CHECKPOINT, scripted=ScriptedTaskModel()))
