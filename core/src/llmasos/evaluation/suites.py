"""Runs the suites that config or the user names, and checks what they return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from llmasos.checkpoints.plain_json import dump_json
from llmasos.evaluation.model_under_test import ModelUnderTest
from llmasos_hookspecs import Figure, PluginError, Section, Suite, SuiteResult
from llmasos_hookspecs.guarding.edge import crossing, kind_of

#: Suite -> its result, of one model.
Results = Mapping[str, SuiteResult]


@attrs.frozen(eq=False, kw_only=True)
class NamedSuite:
    """A suite that a plugin made.

    Attributes:
        name: its name in config.
        label: how messages name it, with distribution and version.
    """

    name: str
    label: str
    suite: Suite

    def measure(self, model: ModelUnderTest) -> SuiteResult:
        """Measure one model. Raises ``PluginError`` where the suite fails, or returns what is no result."""
        with crossing(self.label, "Suite.measure"):
            found = self.suite.measure(model.seen_by(self.label))
        if fault := _fault(found):
            raise PluginError(f"The {self.label} returned {fault} from Suite.measure; this is a fault of the plugin.")
        return found

    def sections(self, results: Mapping[str, SuiteResult]) -> tuple[Section, ...]:
        """What it has to say of several models together; nothing where it has no ``sections``."""
        ask = getattr(self.suite, "sections", None)
        if ask is None:
            return ()
        with crossing(self.label, "Suite.sections"):
            found = tuple(ask(results))
        if wrong := [each for each in found if not isinstance(each, Section)]:
            raise PluginError(f"The {self.label} returned {kind_of(wrong[0])} among its sections; this is a fault of the plugin.")
        return found


def measure_suites(suites: Sequence[NamedSuite], model: ModelUnderTest) -> dict[str, SuiteResult]:
    """The results of all suites for one model."""
    return {suite.name: suite.measure(model) for suite in suites}


def suite_columns(results: Iterable[Results]) -> list[tuple[str, str]]:
    """Suite and name of every figure that some model has, in the order in which they come first."""
    found: dict[tuple[str, str], None] = {}
    for each in results:
        for suite, result in each.items():
            found |= dict.fromkeys((suite, figure.name) for figure in result.figures)
    return list(found)


def suite_headings(columns: Sequence[tuple[str, str]], results: Sequence[Results]) -> tuple[str, ...]:
    """The headings of columns; with the suite's name where several suites have a figure of the name."""
    names = [name for _, name in columns]
    found = []
    for suite, name in columns:
        figure = next(each for each in (figure_of(result, suite, name) for result in results) if each is not None)
        found.append(figure.heading if names.count(name) == 1 else f"{suite}: {figure.heading}")
    return tuple(found)


def suite_cells(columns: Sequence[tuple[str, str]], results: Results) -> tuple[str, ...]:
    """One model's figures as cells of a table; empty for what it has not."""
    found = (figure_of(results, suite, name) for suite, name in columns)
    return tuple("" if figure is None else str(figure) for figure in found)


def results_to_dict(results: Results) -> dict[str, Any]:
    """Plain data for JSON: the figures of each suite by name."""
    return {
        suite: {
            "figures": {figure.name: attrs.asdict(figure, filter=lambda field, _: field.name != "name") for figure in result.figures},
            "facts": dict(result.facts),
            "notes": list(result.notes),
        }
        for suite, result in results.items()
    }


def figure_of(results: Results, suite: str, name: str) -> Figure | None:
    """One figure of a model; None where it has none of the name."""
    result = results.get(suite)
    return None if result is None else next((figure for figure in result.figures if figure.name == name), None)


def _fault(result: Any) -> str:
    """What is wrong with a suite's result; empty where nothing is."""
    if not isinstance(result, SuiteResult):
        return f"{kind_of(result)} and no SuiteResult"
    if wrong := [each for each in result.figures if not isinstance(each, Figure)]:
        return f"{kind_of(wrong[0])} among its figures"
    names = [figure.name for figure in result.figures]
    if twice := [name for name in names if names.count(name) > 1]:
        return f"two figures called {twice[0]!r:.60}"
    for figure in result.figures:
        for what, number in (("value", figure.value), ("error", 0.0 if figure.error is None else figure.error)):
            if isinstance(number, bool) or not isinstance(number, int | float):
                return f"the figure {figure.name!r:.60} whose {what} is {kind_of(number)}, and it must be a number"
    try:
        dump_json(dict(result.facts))
    except (TypeError, ValueError, RecursionError) as error:
        return f"facts that are no plain data ({error})"
    return ""
