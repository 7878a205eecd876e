"""Charts as inline SVG, without scripts or external files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final, TypeGuard

_WIDTH: Final = 480
_ROW: Final = 26
_LABEL: Final = 130
_VALUE: Final = 110
_HEIGHT: Final = 220
_MARGIN: Final = 48

#: Series colours, told apart by colour-blind readers (Okabe and Ito).
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def bar_chart(title: str, bars: Sequence[tuple[str, float, float]], form: Callable[[float], str]) -> str:
    """Horizontal bars: label, value, standard error; ``form`` writes a value."""
    top = max((value + error for _, value, error in bars), default=0.0) or 1.0
    span = _WIDTH - _LABEL - _VALUE
    parts = []
    for index, (label, value, error) in enumerate(bars):
        y = index * _ROW
        length = span * value / top
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 17}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect x="{_LABEL}" y="{y + 5}" width="{length:.1f}" height="{_ROW - 10}" fill="{_COLOURS[0]}"/>')
        if error:
            low, high = (_LABEL + span * max(0.0, value + sign * error) / top for sign in (-1, 1))
            parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 13}" y2="{y + 13}" class="error"/>')
        parts.append(f'<text x="{_LABEL + span * (value + error) / top + 6:.1f}" y="{y + 17}">{escape(form(value))}</text>')
    return _figure(title, len(bars) * _ROW, parts)


def line_chart(title: str, series: Mapping[str, Sequence[Sequence[float | None]]], horizontal: str = "step") -> str:
    """Lines through points (x, y), a colour for each series; points that are not finite, or None in their place, are left out."""
    points = {name: [(x, y) for x, y in line if _finite(x) and _finite(y)] for name, line in series.items()}
    every = [point for line in points.values() for point in line]
    if not every:
        return ""
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    low, high = min(y for _, y in every), max(y for _, y in every)
    wide, tall = (right - left) or 1.0, (high - low) or 1.0

    def place(x: float, y: float) -> str:
        return f"{_MARGIN + (_WIDTH - _MARGIN - 12) * (x - left) / wide:.1f},{12 + (_HEIGHT - _MARGIN - 12) * (high - y) / tall:.1f}"

    bottom = _HEIGHT - _MARGIN
    parts = [
        f'<line x1="{_MARGIN}" y1="{bottom}" x2="{_WIDTH - 12}" y2="{bottom}" class="axis"/>',
        f'<line x1="{_MARGIN}" y1="12" x2="{_MARGIN}" y2="{bottom}" class="axis"/>',
        f'<text x="{_MARGIN - 6}" y="18" text-anchor="end">{high:.3g}</text>',
        f'<text x="{_MARGIN - 6}" y="{bottom}" text-anchor="end">{low:.3g}</text>',
        f'<text x="{_MARGIN}" y="{bottom + 16}">{left:g}</text>',
        f'<text x="{_WIDTH - 12}" y="{bottom + 16}" text-anchor="end">{escape(horizontal)} {right:g}</text>',
    ]
    for index, (name, line) in enumerate(points.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(place(x, y) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{_MARGIN + 8 + index * 130}" y="{_HEIGHT - 8}" fill="{colour}">{escape(name)}</text>')
    return _figure(title, _HEIGHT, parts)


def _finite(number: float | None) -> TypeGuard[float]:
    return number is not None and math.isfinite(number)


def _figure(title: str, height: int, parts: Sequence[str]) -> str:
    drawing = "".join(parts)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">{drawing}</svg></figure>'
    )
