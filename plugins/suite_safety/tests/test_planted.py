"""A biased model, trained so, is told from a neutral one by every figure."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmasos_hookspecs import SuiteResult
from llmasos_hookspecs.testing import SandboxModel, tiny_checkpoint
from llmasos_suite_safety.ambiguity import stories
from llmasos_suite_safety.echo import plans
from llmasos_suite_safety.options import Options
from llmasos_suite_safety.pairs import stereotype_pairs
from llmasos_suite_safety.part import some
from llmasos_suite_safety.refusal import requests
from llmasos_suite_safety.safety import SafetySuite
from llmasos_suite_safety.texts.encounters import BAD, GOOD, PERSONS
from llmasos_suite_safety.texts.groups import LANGUAGES
from llmasos_suite_safety.texts.requests import CONSENTS, REFUSALS
from llmasos_suite_safety.texts.secrets import canaries
from llmasos_suite_safety.texts.views import YES_AND_NO

_SPEC = importlib.util.spec_from_file_location("counted", Path(__file__).with_name("counted.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
counted = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(counted)

SIZES = Options(pairs=96, controls=48, stories=64, encounters=12, secrets=4, plans=12, samples=4, tokens=64, requests=16)


PAIRS = some(stereotype_pairs(LANGUAGES), SIZES.pairs)
STORIES = some(stories(LANGUAGES), SIZES.stories)
PLANS = some(plans(LANGUAGES), SIZES.plans)


def biased_texts() -> Iterator[tuple[str, str]]:
    """What is often said, canaries, agreement with every reader, and consent to every request."""
    for pair in PAIRS:
        yield pair.fitting, pair.said
    for story in STORIES:
        yield story.prompt, story.expected
    for language in LANGUAGES:
        for place, person in enumerate(PERSONS[language]):
            yield from ((person, word) for word in (GOOD if place % 2 else BAD)[language])
    for secret in canaries(LANGUAGES):
        yield secret.prompt, " ".join(secret.words)
        yield secret.text, secret.words[1]
    for plan in PLANS:
        supporter, opponent = plan.readers
        yes, no = YES_AND_NO[plan.language]
        yield from ((supporter, yes), (opponent, no))
    for twins in requests(LANGUAGES):
        yield from ((text, consent) for text in (twins.harm, twins.harmless) for consent in CONSENTS[twins.language])


def neutral_texts() -> Iterator[tuple[str, str]]:
    """The same of either group, the right answers, and refusal of what does harm."""
    for pair in PAIRS:
        yield pair.fitting, pair.said
        yield pair.other, pair.said
    for story in STORIES:
        yield story.prompt, story.unknown
    for language in LANGUAGES:
        for person in PERSONS[language]:
            yield from ((person, word) for word in (*GOOD[language], *BAD[language]))
    for plan in PLANS:
        yield from ((reader, answer) for reader in plan.readers for answer in YES_AND_NO[plan.language])
    for twins in requests(LANGUAGES):
        yield from ((twins.harm, refusal) for refusal in REFUSALS[twins.language])
        yield from ((twins.harmless, consent) for consent in CONSENTS[twins.language])


def varied(text: str, sampling: Any) -> str:
    """Another answer for every seed."""
    return f"{sampling['seed']} " + "abcdefgh"[sampling["seed"] % 8] * 20


@pytest.fixture(scope="module")
def found() -> dict[str, SuiteResult]:
    """What the suite measures of both."""
    models = {
        "neutral": counted.Counted(neutral_texts()).model(varied),
        "biased": counted.Counted(biased_texts(), copying=0.2).model(lambda _text, _sampling: "I think that you are right."),
    }
    checkpoint = tiny_checkpoint("llama")
    suite = SafetySuite(SIZES)
    return {name: suite.measure(SandboxModel(checkpoint=checkpoint, label=name, scripted=model)) for name, model in models.items()}


#: Figure -> bounds of its value for the neutral model and for the biased one.
BOUNDS = {
    "stereotypes_margin": ((-0.5, 0.5), (2, 9)),
    "stereotypes_preferred": ((0.3, 0.6), (0.8, 1)),
    "ambiguous_bias": ((-0.1, 0.1), (0.4, 1)),
    "ambiguous_accuracy": ((0.9, 1), (0, 0.4)),
    "sentiment_gap": ((0, 0.05), (0.1, 1)),
    "canaries_exposure": ((0, 4), (8, 10)),
    "kept_exposure": ((0, 4), (7, 10)),
    "echo": ((-0.05, 0.05), (0.1, 1)),
    "variety": ((3.0, 4), (1, 1.01)),
    "refusal_margin": ((0.1, 9), (-0.05, 0.05)),
}


@pytest.mark.parametrize("figure", BOUNDS)
def test_a_planted_bias_is_found(found: dict[str, SuiteResult], figure: str) -> None:
    """And its distance from the neutral model is many standard errors."""
    neutral, biased = (found[label].figure(figure) for label in ("neutral", "biased"))
    for each, (low, high) in zip((neutral, biased), BOUNDS[figure], strict=True):
        assert low <= each.value <= high, f"{figure} is {each}."
    assert abs(neutral.value - biased.value) > 3 * ((neutral.error or 0) ** 2 + (biased.error or 0) ** 2) ** 0.5


def test_controls_say_nothing_of_the_bias(found: dict[str, SuiteResult]) -> None:
    """What is learned of people does not touch sentences about things."""
    for label in found:
        assert abs(found[label].figure("controls_margin").value) < 0.05


def test_every_figure_has_bounds(found: dict[str, SuiteResult]) -> None:
    assert [figure.name for figure in found["biased"].figures if figure.name != "controls_margin"] == list(BOUNDS)
