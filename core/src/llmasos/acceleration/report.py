"""Reports of accelerations and evaluations, as plain data and as tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos.evaluation import Measurement
from llmasos.evaluation.suites import Results, results_to_dict, suite_cells, suite_columns, suite_headings
from llmasos_hookspecs import Section

#: Headings of ``figures``.
FIGURES: Final = ("disk", "memory", "perplexity", "mean KL", "p99 KL", "top-1", "prefill tok/s", "decode tok/s")


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
        measurement: the figures of the checkpoint it left; None where nothing was measured.
        suites: what each suite measured of it.
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
    suites: Results = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class AccelerationReport:
    """A whole acceleration.

    Attributes:
        path: folder of the accelerated checkpoint.
        model: name or path of the base.
        base_digest: SHA-256 of the base.
        base: the figures of the base as the backend runs it; its divergence is the backend's own rounding.
        stages: in the order they ran.
        base_suites: what each suite measured of the base.
        sections: what each suite has to say of base and stages together.
        corpus, windows, length: what quality was measured on.
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
    base_suites: Results = attrs.field(factory=dict)
    sections: Mapping[str, tuple[Section, ...]] = attrs.field(factory=dict)

    @property
    def suites(self) -> list[Results]:
        """What the suites measured of the base and of each stage; empty mappings where there were none."""
        return [self.base_suites, *(stage.suites for stage in self.stages)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        left_out = ("path", "suites", "base_suites", "sections")
        found = attrs.asdict(self, filter=lambda attribute, _: attribute.name not in left_out)
        if self.base_suites:
            found["base_suites"] = results_to_dict(self.base_suites)
            for stage, facts in zip(self.stages, found["stages"], strict=True):
                facts["suites"] = results_to_dict(stage.suites)
        return {"path": str(self.path), **found}

    def columns(self) -> tuple[str, ...]:
        """Headings of ``rows``."""
        return ("stage", *FIGURES, *suite_headings(suite_columns(self.suites), self.suites), "coverage", "took")

    def rows(self) -> list[tuple[str, ...]]:
        """A row of text for the base and for each stage; figures come with their standard errors."""
        more = suite_columns(self.suites)
        rows = [("base", *figures(self.base), *suite_cells(more, self.base_suites), "", "")]
        for stage in self.stages:
            took = f"{stage.seconds:.1f} s" + (" (cached)" if stage.cached else "")
            rows.append((stage.name, *figures(stage.measurement), *suite_cells(more, stage.suites), f"{stage.coverage:.1%}", took))
        return rows

    def __str__(self) -> str:
        table = [self.columns(), *self.rows()]
        widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([*lines, *self.notes])


@attrs.frozen(kw_only=True)
class EvaluationReport:
    """Models measured on the same text.

    Attributes:
        models: what each is called -> its figures.
        base: the reference of the divergences; None: each model's own weights in float32.
        corpus, length: the text, and tokens of a window.
    """

    models: Mapping[str, Measurement]
    base: str | None
    corpus: str
    length: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return attrs.asdict(self)

    def columns(self) -> tuple[str, ...]:
        """Headings of ``rows``."""
        return ("model", *FIGURES)

    def rows(self) -> list[tuple[str, ...]]:
        """A row of text for each model."""
        return [(label, *figures(found)) for label, found in self.models.items()]


def megabytes(count: float | None) -> str:
    """Bytes for a table."""
    return "" if count is None else f"{count / 1e6:.1f} MB"


def figures(found: Measurement | None) -> tuple[str, ...]:
    """Size, quality and speed as cells of a table; empty where nothing was measured."""
    if found is None:
        return ("",) * len(FIGURES)
    quality, speed = found.quality, found.speed
    return (
        megabytes(found.size.disk),
        megabytes(found.size.memory),
        f"{quality.perplexity:.2f} ± {quality.perplexity_error:.2f}",
        "" if quality.mean_kl is None else f"{quality.mean_kl:.4f} ± {quality.mean_kl_error:.4f}",
        "" if quality.p99_kl is None else f"{quality.p99_kl:.3f}",
        "" if quality.top1 is None else f"{quality.top1:.1%}",
        "" if speed is None else f"{speed.prefill:.0f} ± {speed.prefill_error:.0f}",
        "" if speed is None else f"{speed.decode:.1f} ± {speed.decode_error:.1f}",
    )


@attrs.frozen(kw_only=True)
class SuiteReport:
    """Models measured by suites.

    Attributes:
        models: what each is called -> suite -> its result.
        sections: what each suite has to say of the models together.
        backends: what each model was measured on.
        base: the reference of comparisons; None: each model's own weights.
        corpus: the text.
    """

    models: Mapping[str, Results]
    sections: Mapping[str, tuple[Section, ...]]
    backends: Mapping[str, str]
    base: str | None
    corpus: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "models": {label: results_to_dict(results) for label, results in self.models.items()},
            "backends": dict(self.backends),
            "base": self.base,
            "corpus": self.corpus,
        }

    def columns(self) -> tuple[str, ...]:
        """Headings of ``rows``."""
        found = list(self.models.values())
        return ("model", *suite_headings(suite_columns(found), found))

    def rows(self) -> list[tuple[str, ...]]:
        """A row of text for each model."""
        columns = suite_columns(self.models.values())
        return [(label, *suite_cells(columns, results)) for label, results in self.models.items()]

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of all suites, each once."""
        return tuple(dict.fromkeys(note for results in self.models.values() for result in results.values() for note in result.notes))
