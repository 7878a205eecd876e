"""Charts as inline SVG, without scripts or external files."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final, TypeGuard

_WIDTH: Final = 480
_BAR: Final = 26
_LINE: Final = 17
_VALUE: Final = 130
#: Letters of a line of a name: at 12 pixels they take 7 or less, and those of East Asia two places.
_LETTERS: Final = 56
_HEIGHT: Final = 220
_MARGIN: Final = 48

#: Series colours, told apart by colour-blind readers (Okabe and Ito), on white and on black.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
_COLOURS_ON_BLACK: Final = ("#56b4e9", "#ff8c42", "#2fd6a3", "#e3a5cb", "#f0c04d")
#: Where there are more series than colours, the lines of the next round are broken.
_DASHES: Final = ("none", "7 3", "2 3", "9 3 2 3")


def style() -> str:
    """The rules of style that the charts of a page need, for light and dark mode."""

    def rules(colours: Sequence[str]) -> str:
        return " ".join(f"svg .c{index} {{ --c: {colour}; }}" for index, colour in enumerate(colours))

    return (
        "svg text { font-size: 12px; fill: currentColor; } svg .axis { stroke: currentColor; opacity: .5; }\n"
        "svg .error { stroke: currentColor; stroke-width: 2; } svg .bar { fill: var(--c); } svg .curve { stroke: var(--c); fill: none; }\n"
        f"{rules(_COLOURS)}\n@media (prefers-color-scheme: dark) {{ {rules(_COLOURS_ON_BLACK)} }}\n"
    )


def bar_chart(title: str, bars: Sequence[tuple[str, float, float]], form: Callable[[float], str]) -> str:
    """Horizontal bars: label, value, standard error; ``form`` writes a value."""
    top = max((value + error for _, value, error in bars), default=0.0) or 1.0
    span = _WIDTH - _VALUE
    parts = []
    y = 0
    for label, value, error in bars:
        for line in _lines(label):  # above its bar, where a long name has room
            y += _LINE
            parts.append(f'<text x="0" y="{y - 3}">{escape(line)}</text>')
        parts.append(f'<rect x="0" y="{y}" width="{span * value / top:.1f}" height="{_BAR - 12}" class="bar c0"/>')
        if error:
            low, high = (span * max(0.0, value + sign * error) / top for sign in (-1, 1))
            parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 7}" y2="{y + 7}" class="error"/>')
        parts.append(f'<text x="{span * (value + error) / top + 6:.1f}" y="{y + 11}">{escape(form(value))}</text>')
        y += _BAR
    return _figure(title, y, parts)


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
    y = _HEIGHT - _LINE
    for index, (name, line) in enumerate(points.items()):
        path = " ".join(place(x, y) for x, y in line)
        drawn = (
            f'class="curve c{index % len(_COLOURS)}" stroke-width="1.5" stroke-dasharray="{_DASHES[index // len(_COLOURS) % len(_DASHES)]}"'
        )
        parts.append(f'<polyline points="{path}" {drawn}/>')
        for number, words in enumerate(_lines(name)):  # the legend: a piece of the line, and its name
            y += _LINE
            if not number:
                parts.append(f'<line x1="{_MARGIN}" x2="{_MARGIN + 24}" y1="{y - 4}" y2="{y - 4}" {drawn}/>')
            parts.append(f'<text x="{_MARGIN + 32}" y="{y}">{escape(words)}</text>')
    return _figure(title, y + 8, parts)


def _lines(name: str) -> list[str]:
    """A name in lines that a chart has room for, broken at spaces where it has some; nothing is left out."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in name)
    return textwrap.wrap(name, _LETTERS // 2 if wide else _LETTERS) or [""]


def _finite(number: float | None) -> TypeGuard[float]:
    return number is not None and math.isfinite(number)


def _figure(title: str, height: int, parts: Sequence[str]) -> str:
    drawing = "".join(parts)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">{drawing}</svg></figure>'
    )
