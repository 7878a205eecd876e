"""Draws the pictures of docs/concepts.md as SVG: `python tools/drawings.py` writes docs/drawings/*.svg. They need no font and no script."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "docs" / "drawings"
#: Fill of what core does, of what a plugin does, of data, and of what is neither.
CORE, PLUGIN, DATA, PLAIN = "#dbe4ff", "#d3f9d8", "#fff3bf", "#f1f3f5"


def box(x: float, y: float, width: float, height: float, title: str, below: str = "", fill: str = PLAIN) -> str:
    """A rounded box with a title, and a smaller line below it."""
    middle, centre = x + width / 2, y + height / 2
    texts = [f'<text x="{middle:g}" y="{centre + (4 if not below else -4):g}" font-weight="bold">{escape(title)}</text>']
    if below:
        texts.append(f'<text x="{middle:g}" y="{centre + 13:g}" font-size="11">{escape(below)}</text>')
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" stroke="#495057"/>' + "".join(texts)


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """An arrow from one point to another."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#495057" stroke-width="1.5" marker-end="url(#head)"/>'


def note(x: float, y: float, text: str, anchor: str = "start") -> str:
    """A line of small text."""
    return f'<text x="{x:g}" y="{y:g}" font-size="11" style="text-anchor:{anchor}">{escape(text)}</text>'


def legend(x: float, y: float) -> Iterator[str]:
    """What the colours mean, in one row."""
    for number, (fill, word) in enumerate(((CORE, "core"), (PLUGIN, "plugin"), (DATA, "data"))):
        left = x + 90 * number
        yield f'<rect x="{left:g}" y="{y:g}" width="14" height="14" rx="3" fill="{fill}" stroke="#495057"/>'
        yield note(left + 20, y + 11, word)


def picture(width: int, height: int, title: str, *parts: str) -> str:
    """A whole SVG file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'font-family="sans-serif" font-size="13" style="text-anchor:middle">\n<title>{escape(title)}</title>\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#495057"/></marker></defs>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def pipeline() -> str:
    """From a reference to an answer."""
    upper = [
        *(("reference", "smollm2, hf:org/name", DATA), ("source", "fetches files", PLUGIN), ("format", "reads them", PLUGIN)),
        *(("checkpoint", "named tensors", DATA), ("accelerators", "prune, distil, quantise", PLUGIN)),
    ]
    lower = [
        *(("loader", "builds for its kernels", PLUGIN), ("engine", "step(rows) to logits", PLUGIN)),
        *(("loop", "slots, KV, sampling", CORE), ("task", "typed in and out", PLUGIN), ("answer", "text or data", DATA)),
    ]
    parts = []
    for y, row in ((20, upper), (150, lower)):
        for number, (title, below, fill) in enumerate(row):
            parts.append(box(20 + 172 * number, y, 148, 54, title, below, fill))
            if number:
                parts.append(arrow(20 + 172 * number - 24, y + 27, 20 + 172 * number - 2, y + 27))
    parts += [
        '<path d="M782 74 V112 H94 V148" fill="none" stroke="#495057" stroke-width="1.5" marker-end="url(#head)"/>',
        box(364, 234, 148, 46, "scheduler", "ranks the requests", PLUGIN),
        arrow(438, 234, 438, 206),
        *legend(20, 252),
    ]
    return picture(880, 296, "From a reference to an answer", *parts)


def layers() -> str:
    """The four layers, and what lies in each."""
    rows = (
        ("application", ("Python API", CORE), ("command line", CORE), ("tasks", PLUGIN), ("servers", PLUGIN), ("guards, access", PLUGIN)),
        ("runtime", ("engine loop", CORE), ("residency", CORE), ("loaders", PLUGIN), ("schedulers", PLUGIN), ("accelerators", PLUGIN)),
        ("system", ("discovery", CORE), ("config", CORE), ("model store", CORE), ("sources", PLUGIN), ("formats", PLUGIN)),
        ("hardware", ("CPU, caches", PLAIN), ("memory", PLAIN), ("GPU", PLAIN), ("storage", PLAIN), ("control groups", PLAIN)),
    )
    parts = []
    for number, (layer, *cells) in enumerate(rows):
        y = 16 + 62 * number
        parts.append(note(96, y + 28, layer, "end"))
        parts += [box(108 + 148 * place, y, 138, 46, title, "", fill) for place, (title, fill) in enumerate(cells)]
    parts += legend(108, 270)
    return picture(860, 296, "The four layers", *parts)


def step() -> str:
    """Three sequences in the steps of a loop: chunks of prompts beside decoded tokens."""
    parts = [note(110 + 96 * number + 44, 22, f"step {number + 1}", "middle") for number in range(7)]
    rows = {
        "sequence A": ("prefill 512", "prefill 88", "1", "1", "1", "1", "end"),
        "sequence B": ("", "prefill 40", "1", "1", "end", "", ""),
        "sequence C": ("", "", "", "prefill 300", "1", "1", "1"),
    }
    for place, (name, cells) in enumerate(rows.items()):
        y = 34 + 44 * place
        parts.append(note(100, y + 22, name, "end"))
        for number, cell in enumerate(cells):
            if cell:
                fill = DATA if cell.startswith("prefill") else PLAIN if cell == "end" else PLUGIN
                parts.append(box(110 + 96 * number, y, 88, 34, cell, "", fill))
    parts.append(
        note(110, 186, "A column is one call of the engine. Sequences join and leave at any step; long prompts are cut into chunks.")
    )
    return picture(800, 200, "Continuous batching", *parts)


def discovery() -> str:
    """How late a plugin is imported."""
    boxes = (
        ("1. listed", "metadata only", "plugins list"),
        ("2. described", "imports no framework", "config names it"),
        ("3. called", "torch, onnxruntime ...", "the hook runs"),
    )
    parts = []
    for number, (title, below, when) in enumerate(boxes):
        parts += [box(20 + 250 * number, 20, 200, 56, title, below, PLUGIN), note(120 + 250 * number, 98, when, "middle")]
        if number:
            parts.append(arrow(20 + 250 * number - 48, 48, 20 + 250 * number - 3, 48))
    return picture(760, 112, "When a plugin is imported", *parts)


def memory() -> str:
    """How a memory budget is divided."""
    shares = (
        *(("weights A", 170, CORE), ("weights B", 120, CORE), ("KV reserved", 130, DATA)),
        *(("prefix cache", 110, PLUGIN), ("free", 90, PLAIN), ("reserve", 90, PLAIN)),
    )
    parts, x = [], 20.0
    for title, width, fill in shares:
        parts.append(box(x, 24, width, 44, title, "", fill))
        x += width
    parts += [
        note(
            20,
            90,
            "Short of memory: prefix caches go first, then idle models, cheapest to load again first; pinned ones stay.",
        ),
        note(20, 16, 'resources.memory = "6GiB"'),
    ]
    return picture(760, 102, "One ledger for all memory", *parts)


PICTURES: Final = {f"{make.__name__}.svg": make for make in (pipeline, layers, step, discovery, memory)}


def main() -> None:
    """Write every picture."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in PICTURES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
