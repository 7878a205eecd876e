"""Reports as plain data: what suites measured of several models, and what there is to say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from llmasos_hookspecs.suites import Figure, Section, SuiteResult

#: Suite -> its result, of one model.
Results = Mapping[str, SuiteResult]


@attrs.frozen
class SuiteValues:
    """The values of one suite as attributes: figures, ``NAME_error`` for their standard errors, and facts."""

    _values: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"The suite has no value {name}; it has {', '.join(self._values)}.")
        return self._values[name]


@attrs.frozen(kw_only=True)
class Measurement:
    """What suites measured of one model.

    ``measurement.quality.mean_kl`` is the figure ``mean_kl`` of the suite ``quality``, ``measurement.quality.mean_kl_error`` its standard
    error, and ``measurement.quality.tokens`` a fact.

    Attributes:
        results: suite -> its result.
        backend: the loader with its distribution, version and options.
        dtype: what the engine computed from; None where no suite asked for the engine.
    """

    results: Results
    backend: str
    dtype: str | None = None

    def __getattr__(self, suite: str) -> Any:
        if suite.startswith("_") or suite not in self.results:
            raise AttributeError(f"The suite {suite} did not measure the model; those that did are {', '.join(self.results)}.")
        return SuiteValues(_plain(self.results[suite]))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the values of each suite by name."""
        return {**{suite: _plain(result) for suite, result in self.results.items()}, "backend": self.backend, "dtype": self.dtype}


@attrs.frozen(kw_only=True)
class Report:
    """Models side by side.

    Attributes:
        title: its heading.
        text: a paragraph: what was measured, and on what.
        columns, rows: the table, a row for each model.
        models: label -> what was measured; models that were not measured are left out.
        corpus: name of the text that suites got.
        sections: what suites say of the models together, then what else there is to say of each.
        notes: what a reader of the figures must know, one sentence each.
    """

    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    models: Mapping[str, Measurement]
    corpus: str = ""
    sections: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()


@attrs.frozen
class FigureColumn:
    """One figure of one suite, for all models of a report."""

    suite: str
    name: str
    heading: str

    def figure(self, results: Results) -> Figure | None:
        """The figure of one model; None where it has none of the name."""
        result = results.get(self.suite)
        return None if result is None else next((figure for figure in result.figures if figure.name == self.name), None)

    def cell(self, results: Results) -> str:
        """The figure of one model for a table; empty where it has none."""
        figure = self.figure(results)
        return "" if figure is None else str(figure)


def figure_columns(models: Iterable[Results]) -> tuple[FigureColumn, ...]:
    """A column for every figure that some model has, in the order in which they come first; its heading has the suite's name where several
    suites have a figure of the name."""
    first: dict[tuple[str, str], Figure] = {}
    for results in models:
        for suite, result in results.items():
            for figure in result.figures:
                first.setdefault((suite, figure.name), figure)
    names = [name for _, name in first]
    return tuple(
        FigureColumn(suite, name, figure.heading if names.count(name) == 1 else f"{suite}: {figure.heading}")
        for (suite, name), figure in first.items()
    )


def figure_table(models: Mapping[str, Results]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Headings, and a row of cells for each model, its label first; figures come with their standard errors."""
    columns = figure_columns(models.values())
    headings = ("model", *(column.heading for column in columns))
    return headings, tuple((label, *(column.cell(results) for column in columns)) for label, results in models.items())


def results_to_dict(results: Results) -> dict[str, Any]:
    """Plain data for JSON: the figures of each suite by name with all that is known of them, its facts and its notes."""
    return {
        suite: {
            "figures": {figure.name: attrs.asdict(figure, filter=lambda field, _: field.name != "name") for figure in result.figures},
            "facts": dict(result.facts),
            "notes": list(result.notes),
        }
        for suite, result in results.items()
    }


def _plain(result: SuiteResult) -> dict[str, Any]:
    """A suite's figures, with ``NAME_error`` where they have a standard error, and its facts."""
    values: dict[str, Any] = {}
    for figure in result.figures:
        values[figure.name] = figure.value
        if figure.error is not None:
            values[f"{figure.name}_error"] = figure.error
    return {**values, **result.facts}
