"""Reports of accelerations, as plain data and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from llmasos_hookspecs import Measurement, Report, Results, Section, figure_table, results_to_dict
from llmasos_hookspecs.plain_json import dump_json


@attrs.frozen(kw_only=True)
class StageReport:
    """One stage.

    Attributes:
        name: the accelerator's name in config.
        use, version: ``dist:name`` and the distribution's version.
        options: all of its options, defaults included.
        seconds: how long it took when it ran.
        cached: whether its result came from the cache.
        coverage: share of the weights that it changed, of those it could change, by elements.
        touched: how many tensors differ from the input's, are new, or are gone.
        skipped: name -> reason.
        report: the accelerator's own report.
        measurement: what suites measured of the checkpoint it left; None where nothing was measured.
    """

    name: str
    use: str
    version: str
    options: Mapping[str, Any]
    seconds: float
    cached: bool
    coverage: float
    touched: int
    skipped: Mapping[str, str]
    report: Mapping[str, Any]
    measurement: Measurement | None

    def sections(self, number: int) -> Iterator[Section]:
        """The stage for a page: what it changed and skipped, its options and its own report, and the curves in that."""
        curves: Mapping[str, Any] = self.report.get("curves", {})
        told = {key: value for key, value in self.report.items() if key not in ("curves", "notes")}
        yield Section(
            title=f"{number} {self.name}",
            text=f"{self.use} {self.version}; {self.touched} tensors touched, coverage {self.coverage:.1%}.",
            columns=("skipped", "why") if self.skipped else (),
            rows=tuple(self.skipped.items()),
            details=f"{dump_json(dict(self.options), indent=1)}\n{dump_json(told, indent=1)}",
        )
        for title, lines in curves.items():
            yield Section(title=title, lines=lines)


@attrs.frozen(kw_only=True)
class AccelerationReport:
    """A whole acceleration.

    Attributes:
        path: folder of the accelerated checkpoint.
        model: name or path of the base.
        base_digest: SHA-256 of the base.
        base: what suites measured of the base as the backend runs it; its divergence is the backend's own rounding.
        stages: in the order they ran.
        sections: what suites have to say of base and stages together.
        corpus, windows, length: the text that suites got, and how much of it at most.
        backend: loader, distribution and version.
        notes: what a reader of the figures must know.
    """

    path: Path
    model: str
    base_digest: str
    base: Measurement | None
    stages: tuple[StageReport, ...]
    corpus: str
    windows: int
    length: int
    backend: str | None
    seed: int
    notes: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()

    @property
    def models(self) -> dict[str, Measurement | None]:
        """The base and each stage by the labels that suites know them by."""
        return {"base": self.base, **{f"{number} {stage.name}": stage.measurement for number, stage in enumerate(self.stages, 1)}}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        kept = attrs.asdict(self, recurse=False, filter=lambda field, _: field.name not in ("path", "stages", "sections", "base"))
        stages = [
            attrs.asdict(stage, recurse=False) | {"measurement": _values(stage.measurement)} | _suites("suites", stage.measurement)
            for stage in self.stages
        ]
        return {"path": str(self.path), **kept, "base": _values(self.base), **_suites("base_suites", self.base), "stages": stages}

    def columns(self) -> tuple[str, ...]:
        """Headings of ``rows``."""
        return ("stage", *self._table()[0][1:], "coverage", "took")

    def rows(self) -> list[tuple[str, ...]]:
        """A row of text for the base and for each stage; figures come with their standard errors."""
        cells = self._table()[1]
        rows = [("base", *cells[0][1:], "", "")]
        for stage, (_, *figures) in zip(self.stages, cells[1:], strict=True):
            took = f"{stage.seconds:.1f} s" + (" (cached)" if stage.cached else "")
            rows.append((stage.name, *figures, f"{stage.coverage:.1%}", took))
        return rows

    def to_page(self) -> Report:
        """What a suite draws a page of."""
        measured = (
            f"Measured on {self.backend}, with {self.windows} windows of {self.length} tokens of the evaluation part of {self.corpus} at "
            "most; the base in float32 is what is compared with. ± is one standard error."
            if self.backend
            else "Nothing was measured."
        )
        details = [section for number, stage in enumerate(self.stages, 1) for section in stage.sections(number)]
        return Report(
            title="Acceleration report",
            text=f"Base: {self.model} (SHA-256 {self.base_digest[:16]}...). {measured} Seed {self.seed}.",
            columns=self.columns(),
            rows=tuple(self.rows()),
            models={label: found for label, found in self.models.items() if found is not None},
            corpus=self.corpus,
            sections=(*self.sections, *details),
            notes=self.notes,
        )

    def __str__(self) -> str:
        table = [self.columns(), *self.rows()]
        widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([*lines, *self.notes])

    def _table(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        nothing: Results = {}
        return figure_table({label: nothing if found is None else found.results for label, found in self.models.items()})


def _values(found: Measurement | None) -> dict[str, Any] | None:
    return None if found is None else found.to_dict()


def _suites(key: str, found: Measurement | None) -> dict[str, Any]:
    """All that is known of the figures, under ``key``; nothing where nothing was measured."""
    return {} if found is None else {key: results_to_dict(found.results)}
