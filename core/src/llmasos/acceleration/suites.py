"""Runs the suites that config or the user names, and checks what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import attrs

from llmasos.acceleration.model_under_test import ModelUnderTest
from llmasos_hookspecs import Figure, Measurement, PluginError, Report, Results, Section, Suite, SuiteResult
from llmasos_hookspecs.guarding.edge import crossing, kind_of
from llmasos_hookspecs.plain_json import dump_json

T = TypeVar("T")


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
        return self._several("sections", Section, results)

    def notes(self, results: Mapping[str, SuiteResult]) -> tuple[str, ...]:
        """The same in sentences; nothing where it has no ``notes``."""
        return self._several("notes", str, results)

    def page(self, report: Report) -> str | None:
        """A report as an HTML page; None where it draws none."""
        draw = getattr(self.suite, "page", None)
        if draw is None:
            return None
        with crossing(self.label, "Suite.page"):
            found = draw(report)
        if not isinstance(found, str):
            raise PluginError(f"The {self.label} returned {kind_of(found)} and no text from Suite.page; this is a fault of the plugin.")
        return found

    def _several(self, method: str, kind: type[T], results: Mapping[str, SuiteResult]) -> tuple[T, ...]:
        """What an optional method says of several models."""
        ask = getattr(self.suite, method, None)
        if ask is None:
            return ()
        with crossing(self.label, f"Suite.{method}"):
            found = tuple(ask(results))
        if wrong := [each for each in found if not isinstance(each, kind)]:
            raise PluginError(f"The {self.label} returned {kind_of(wrong[0])} among its {method}; this is a fault of the plugin.")
        return found


def measure(suites: Sequence[NamedSuite], model: ModelUnderTest) -> Measurement:
    """What all suites measure of one model, in their order."""
    results = {suite.name: suite.measure(model) for suite in suites}
    return Measurement(results=results, backend=model.backend.label, dtype=model.dtype)


def joint_sections(suites: Sequence[NamedSuite], models: Mapping[str, Results]) -> tuple[Section, ...]:
    """What the suites have to say of models together."""
    return tuple(section for suite in suites for section in suite.sections(_of(suite, models)))


def joint_notes(suites: Sequence[NamedSuite], models: Mapping[str, Results]) -> tuple[str, ...]:
    """The notes of all suites on each model and on the models together, each once."""
    each = [note for results in models.values() for result in results.values() for note in result.notes]
    return tuple(dict.fromkeys([*each, *(note for suite in suites for note in suite.notes(_of(suite, models)))]))


def _of(suite: NamedSuite, models: Mapping[str, Results]) -> dict[str, SuiteResult]:
    return {label: results[suite.name] for label, results in models.items() if suite.name in results}


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
