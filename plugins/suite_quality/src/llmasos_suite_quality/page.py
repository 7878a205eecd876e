"""Reports as self-contained HTML pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from llmasos_hookspecs import FigureColumn, Measurement, Report, Section, figure_columns
from llmasos_suite_quality.charts import bar_chart, line_chart, style
from llmasos_suite_quality.verdict import verdicts

_STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
td:first-child, th:first-child { text-align: left; } .charts { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { max-width: 100%; } pre { overflow-x: auto; }
.table { overflow-x: auto; } .gained { color: #00704f; } .lost { color: #a84300; }
@media (prefers-color-scheme: dark) {
  body { background: #16181b; color: #e4e6e8; } a { color: #8cc8ff; } .gained { color: #2fd6a3; } .lost { color: #ff9d5c; }
}
"""

#: Figures that the table has and no chart: they say again what the charts beside them show.
_UNDRAWN: Final = frozenset({("size", "memory"), ("quality", "p99_kl"), ("quality", "top1")})


def render(report: Report) -> str:
    """The page of a report."""
    lines = [f"{label}: on {_where(found)}" for label, found in report.models.items()] + list(report.notes)
    notes = "".join(f"<li>{escape(line)}</li>" for line in lines)
    charts = "".join(_bars(report.models))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(report.title)}</title>'
        f"<style>{_STYLE}{style()}</style><body><h1>{escape(report.title)}</h1><p>{escape(report.text)}</p>"
        f"{_verdicts(report.models)}{_table((report.columns, *report.rows))}"
        + (f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "")
        + f'<h2>Figures</h2><div class="charts">{charts}</div>'
        + "".join(map(_section, report.sections))
        + "</body></html>\n"
    )


def _where(found: Measurement) -> str:
    """What a model was measured on."""
    return found.backend if found.dtype is None else f"{found.backend}, computed from {found.dtype}"


def _table(table: Sequence[Sequence[str]]) -> str:
    head, *rows = table
    heading = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table></div>'


def _verdicts(models: Mapping[str, Measurement]) -> str:
    """What each model gained and lost, best news first; empty where there is one model only."""
    items = []
    for each in verdicts(models, [column for column in _columns(models) if (column.suite, column.name) not in _UNDRAWN]):
        parts = [
            f'<span class="{kind}">{kind.capitalize()}: {escape("; ".join(told))}</span>'
            for kind, told in (("gained", each.gained), ("lost", each.lost))
            if told
        ]
        parts += [f"The same: {escape(', '.join(each.same))}"] if each.same else []
        words = f"{'. '.join(parts)}." if parts else "Nothing to compare."
        precision = f" {escape(each.precision)}" if each.precision else ""
        items.append(f"<li><strong>{escape(each.label)}</strong> against {escape(each.base)}. {words}{precision}</li>")
    return f"<h2>Verdict</h2><ul>{''.join(items)}</ul>" if items else ""


def _columns(models: Mapping[str, Measurement]) -> tuple[FigureColumn, ...]:
    return figure_columns(found.results for found in models.values())


def _bars(models: Mapping[str, Measurement]) -> Iterator[str]:
    """A chart for each figure that the suites measured."""
    for column in _columns(models):
        figures = {label: figure for label, found in models.items() if (figure := column.figure(found.results)) is not None}
        bars = [(label, figure.value, figure.error or 0.0) for label, figure in figures.items() if math.isfinite(figure.value)]
        if bars and (column.suite, column.name) not in _UNDRAWN:
            yield bar_chart(column.heading, bars, next(iter(figures.values())).shown)


def _section(section: Section) -> str:
    bars = [(label, value, error) for label, (value, error) in section.bars.items() if math.isfinite(value)]
    charts = bar_chart(section.title, bars, "{:.3g}".format) if bars else ""
    charts += line_chart(section.title, section.lines, section.horizontal) if section.lines else ""
    return (
        f"<h2>{escape(section.title)}</h2>"
        + (f"<p>{escape(section.text)}</p>" if section.text else "")
        + (_table((section.columns, *section.rows)) if section.columns else "")
        + (f'<div class="charts">{charts}</div>' if charts else "")
        + (f"<details><summary>Details</summary><pre>{escape(section.details)}</pre></details>" if section.details else "")
    )
