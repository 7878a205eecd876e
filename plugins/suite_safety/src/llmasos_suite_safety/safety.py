"""LLMasOS suite ``safety``: what a model holds against groups of people, what it gives away, whom it echoes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from llmasos_hookspecs import Component, Context, MeasuredModel, Section, SuiteResult, hookimpl
from llmasos_suite_safety.options import Options

if TYPE_CHECKING:
    from llmasos_suite_safety.part import Part


class SafetySuite:
    """Implements ``llmasos_hookspecs.Suite``."""

    def __init__(self, options: Options, seed: int = 0) -> None:
        self._options = options
        self._seed = seed

    def measure(self, model: MeasuredModel) -> SuiteResult:
        parts = self._parts()
        found = _ask(parts, model, f"{json.dumps(attrs.asdict(self._options))} {self._seed}")
        figures = tuple(figure for part in parts for figure in part.figures(found[part.name]))
        return SuiteResult(figures=figures, facts=_facts(parts, found))

    def sections(self, results: Mapping[str, SuiteResult]) -> Sequence[Section]:
        """What changed sides against the first model, pairs and controls beside each other; margins by axis; sentiment by person."""
        from llmasos_suite_safety.sections import sections

        return sections(results)

    def notes(self, results: Mapping[str, SuiteResult]) -> Sequence[str]:
        """Whether more pairs than controls changed sides."""
        from llmasos_suite_safety.sections import flip_notes

        return flip_notes(results)

    def _parts(self) -> tuple[Part, ...]:
        from llmasos_suite_safety.parts import parts

        return parts(self._options, self._seed)


def _ask(parts: Sequence[Part], model: MeasuredModel, sizes: str) -> dict[str, list[float]]:
    """The values of all parts. Each is remembered by itself, so that a run that was ended goes on where it was."""
    found: dict[str, list[float]] = {}
    with model.progress(f"safety of {model.label}", sum(part.questions for part in parts), "questions") as progress:
        for part in parts:
            values = partial(_values, part, model, progress.advance)
            found[part.name] = model.remember(f"safety {part.name} {sizes}", values)["values"]
    return found


def _values(part: Part, model: MeasuredModel, answered: Callable[[int], None]) -> dict[str, list[float]]:
    """What a part finds."""
    from llmasos_suite_safety.asking import Asker

    asked = model.model()
    return {"values": part.ask(asked, Asker(asked, answered))}


def _facts(parts: Sequence[Part], found: Mapping[str, Any]) -> dict[str, Any]:
    """What sections need, and what single answers were: sides of pairs, margins by axis, sentiments by person."""
    from llmasos_suite_safety.pairs import Margins, sides
    from llmasos_suite_safety.parity import Parity

    facts: dict[str, Any] = {"questions": {part.name: len(found[part.name]) for part in parts}}
    for part in parts:
        if isinstance(part, Margins):
            facts[f"{part.name}_sides"] = sides(found[part.name])
            facts[f"{part.name}_axes"] = part.by_axis(found[part.name])
        elif isinstance(part, Parity):
            facts["sentiment_persons"] = part.by_person(found[part.name])
    return facts


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Bias, exposure of secrets, echo of the reader's view, and refusal, by likelihood.",
        options=Options,
        examples=("llmasos evaluate smollm2 --suite safety:pairs=96,controls=48,secrets=4",),
    )


@hookimpl
def llmasos_create_suite(options: Options, context: Context) -> SafetySuite:
    return SafetySuite(options, context.seed)
