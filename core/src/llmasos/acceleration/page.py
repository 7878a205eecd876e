"""Reports as self-contained HTML pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from llmasos.acceleration.charts import bar_chart, line_chart
from llmasos.acceleration.report import AccelerationReport, EvaluationReport, StageReport, SuiteReport
from llmasos.checkpoints.plain_json import dump_json
from llmasos.evaluation import Measurement
from llmasos.evaluation.suites import Results, figure_of, suite_columns, suite_headings
from llmasos_hookspecs import Section

_STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
td:first-child, th:first-child { text-align: left; } .charts { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { max-width: 100%; } svg text { font-size: 12px; fill: currentColor; }
svg .axis { stroke: currentColor; opacity: .5; } svg .error { stroke: currentColor; stroke-width: 2; } pre { overflow-x: auto; }
"""

#: A value and its standard error; None where it was not measured.
_Figure = Callable[[Measurement], tuple[float, float] | None]

#: What is drawn of everything that was measured: title, figure, form.
_BARS: Final[tuple[tuple[str, _Figure, str], ...]] = (
    ("Weights on disk, MB", lambda found: (found.size.disk / 1e6, 0.0), "{:.1f}"),
    ("Perplexity", lambda found: (found.quality.perplexity, found.quality.perplexity_error), "{:.2f}"),
    ("Mean KL to the base, nats a token", lambda found: _pair(found.quality.mean_kl, found.quality.mean_kl_error), "{:.4f}"),
    ("Prefill, tokens a second", lambda found: None if found.speed is None else (found.speed.prefill, found.speed.prefill_error), "{:.0f}"),
    ("Decode, tokens a second", lambda found: None if found.speed is None else (found.speed.decode, found.speed.decode_error), "{:.1f}"),
)


def render_suites(report: SuiteReport) -> str:
    """The page of what suites measured."""
    told = (
        f"Measured on the evaluation part of {report.corpus}, against {report.base or 'the weights of each model itself'}. "
        "± is one standard error."
    )
    lines = [f"{label}: on {backend}" for label, backend in report.backends.items()] + list(report.notes)
    notes = "".join(f"<li>{escape(line)}</li>" for line in lines)
    charts = _charts("".join(_suite_bars(report.models)))
    return _document(
        "Evaluation report", told, (report.columns(), *report.rows()), f"<ul>{notes}</ul>", charts + _sections(report.sections)
    )


def render_page(report: AccelerationReport) -> str:
    """The page of an acceleration."""
    measured = (
        f"Quality on {report.windows} windows of {report.length} tokens of the evaluation part of {report.corpus}, against the base in "
        f"float32; figures and speed on {report.backend}, batch 1. ± is one standard error."
        if report.backend
        else "Nothing was measured."
    )
    told = f"Base: {report.model} (SHA-256 {report.base_digest[:16]}...). {measured} Seed {report.seed}."
    found = {"base": report.base, **{f"{number} {stage.name}": stage.measurement for number, stage in enumerate(report.stages, 1)}}
    suites = dict(zip(found, report.suites, strict=True))
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return _document(
        "Acceleration report",
        told,
        (report.columns(), *report.rows()),
        f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
        _charts("".join((*_bars({label: each for label, each in found.items() if each is not None}), *_suite_bars(suites))))
        + _sections(report.sections)
        + "".join(_stage(number, stage) for number, stage in enumerate(report.stages, 1)),
    )


def render_evaluation(report: EvaluationReport) -> str:
    """The page of an evaluation."""
    told = (
        f"Quality on windows of {report.length} tokens of the evaluation part of {report.corpus}, against "
        f"{report.base or 'the weights of each model itself'} in float32. ± is one standard error."
    )
    backends = "".join(
        f"<li>{escape(label)}: on {escape(found.backend)}, computed from {escape(found.dtype)}, {found.quality.tokens} tokens</li>"
        for label, found in report.models.items()
    )
    return _document(
        "Evaluation report", told, (report.columns(), *report.rows()), f"<ul>{backends}</ul>", _charts("".join(_bars(report.models)))
    )


def _document(title: str, told: str, table: Sequence[Sequence[str]], notes: str, details: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><body><h1>{title}</h1><p>{escape(told)}</p>"
        f"{_table(table)}{notes}{details}</body></html>\n"
    )


def _table(table: Sequence[Sequence[str]]) -> str:
    head, *rows = table
    heading = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table>"


def _charts(charts: str) -> str:
    return f'<h2>Figures</h2><div class="charts">{charts}</div>'


def _bars(measured: Mapping[str, Measurement]) -> Iterator[str]:
    for title, figure, form in _BARS:
        bars = [(label, *pair) for label, found in measured.items() if (pair := figure(found)) is not None and math.isfinite(pair[0])]
        if bars:
            yield bar_chart(title, bars, form)


def _suite_bars(models: Mapping[str, Results]) -> Iterator[str]:
    """A chart for each figure that the suites measured."""
    columns = suite_columns(models.values())
    for (suite, name), heading in zip(columns, suite_headings(columns, list(models.values())), strict=True):
        found = {label: figure for label, results in models.items() if (figure := figure_of(results, suite, name)) is not None}
        bars = [(label, figure.value, figure.error or 0.0) for label, figure in found.items() if math.isfinite(figure.value)]
        if bars:
            yield bar_chart(heading, bars, f"{{:.{next(iter(found.values())).digits}f}}")


def _sections(sections: Mapping[str, Sequence[Section]]) -> str:
    return "".join(_section(section) for found in sections.values() for section in found)


def _section(section: Section) -> str:
    bars = [(label, value, error) for label, (value, error) in section.bars.items() if math.isfinite(value)]
    charts = bar_chart(section.title, bars, "{:.3g}") if bars else ""
    charts += line_chart(section.title, section.lines, section.horizontal) if section.lines else ""
    return (
        f"<h2>{escape(section.title)}</h2>"
        + (f"<p>{escape(section.text)}</p>" if section.text else "")
        + (_table((section.columns, *section.rows)) if section.columns else "")
        + (f'<div class="charts">{charts}</div>' if charts else "")
    )


def _stage(number: int, stage: StageReport) -> str:
    curves = stage.report.get("curves", {})
    charts = "".join(line_chart(title, series) for title, series in curves.items()) if isinstance(curves, Mapping) else ""
    told: dict[str, Any] = {key: value for key, value in stage.report.items() if key not in ("curves", "notes")}
    skipped = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in stage.skipped.items())
    return (
        f"<h2>{number} {escape(stage.name)}</h2><p>{escape(stage.use)} {escape(stage.version)}; {stage.touched} tensors touched, "
        f"coverage {stage.coverage:.1%}.</p>"
        f'<div class="charts">{charts}</div>'
        f"<details><summary>Options and report</summary><pre>{escape(dump_json(dict(stage.options), indent=1))}</pre>"
        f"<pre>{escape(dump_json(told, indent=1))}</pre></details>"
        f"{f'<h3>Skipped</h3><ul>{skipped}</ul>' if skipped else ''}"
    )


def _pair(value: float | None, error: float | None) -> tuple[float, float] | None:
    return None if value is None else (value, error or 0.0)
