"""The output of the command line: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llmasos_hookspecs import Progress

#: Seconds after which work that cannot show a bar says what it is doing.
_PATIENCE: Final = 1.0

#: Control characters of ASCII as the pictures that Unicode has of them, and those of Latin-1, which some terminals obey too, as a box.
_SHOWN: Final = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421} | dict.fromkeys(range(128, 160), 0xFFFD)


def print_result(text: str = "", *, end: str = "\n") -> None:
    """Print a part of the answer at once; on a terminal, control characters are shown and not executed."""
    sys.stdout.write((_harmless(text) if sys.stdout.isatty() else text) + end)
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Print the answer as JSON, for other programs."""
    from llmasos_hookspecs.plain_json import dump_json  # only verbs that print JSON pay for its import

    print_result(dump_json(value, indent=2))


def print_note(sentence: str) -> None:
    """Print a note, which is not part of the answer, on standard error."""
    print(_harmless(sentence) if sys.stderr.isatty() else sentence, file=sys.stderr, flush=True)


def print_error(sentence: str) -> None:
    """Print why the command failed."""
    print_note(f"Error: {sentence}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: drawn at a terminal, tab-separated lines in a pipe."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print_result("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_harmless(cell)) for cell in row))
    Console().print(table)


def _harmless(text: str) -> str:
    """Text whose control characters, line breaks and tabs aside, are shown rather than obeyed: what a model, a file or another user said
    could move the cursor, rename the window or type for the user."""
    return text.translate(_SHOWN)


class TerminalSink:
    """Shows progress and notes on standard error; bars only at a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    @contextlib.contextmanager
    def progress(self, label: str, total: float | None, unit: str) -> Iterator[Progress]:
        if self._quiet or not sys.stderr.isatty():
            yield _Line(None if self._quiet else label)
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress as Bars,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        amount: ProgressColumn = DownloadColumn() if unit == "B" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            yield _Bar(bars, bars.add_task(label, total=total))

    def note(self, message: str) -> None:
        if not self._quiet:
            print_note(message)


class _Bar:
    def __init__(self, bars: Any, task: Any) -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: float = 1) -> None:
        self._bars.advance(self._task, amount)


class _Line:
    """Progress where no bar can be drawn: one line once it takes long, and no more."""

    def __init__(self, label: str | None) -> None:
        self._label, self._began = label, time.monotonic()

    def advance(self, amount: float = 1) -> None:
        if self._label is not None and time.monotonic() - self._began > _PATIENCE:
            print_note(f"{self._label} ...")
            self._label = None


def in_bytes(count: float) -> str:
    """A number of bytes for people: ``92.9 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
