"""The verbs ``ps`` and ``top``."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_devtools.processes.tables import COLUMNS, OBSERVER_COLUMNS, memory_line, observer_rows, rows
from llmasos_hookspecs import Command, CommandContext

_NOTHING: Final = "No process of this user has a model open."


def make_ps(context: CommandContext) -> Command:
    """``ps`` with its options."""

    def ps(as_json: o.JsonOption = False) -> None:
        """List the models of every process of this user, and what they are doing; and observers, with the events that each was too slow
        for."""
        found = context.processes()
        if as_json:
            context.answer(found, as_json=True)
        elif models := list(rows(found)):
            context.table(COLUMNS, models)
            if observers := list(observer_rows(found)):
                context.table(OBSERVER_COLUMNS, observers)
        else:
            context.note(_NOTHING)

    return verb("ps", ps)


def make_top(context: CommandContext) -> Command:
    """``top`` with its options."""

    def top(
        interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, help="Seconds between two looks.")] = 1.0,
        count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Looks until it ends; left out: until Ctrl-C.")] = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print the looks as a list in JSON; one look where --count is left out.")
        ] = False,
    ) -> None:
        """Show live what the models of every process of this user are doing."""
        if as_json:
            context.answer(list(_looks(context, interval, count or 1)), as_json=True)
            return
        with Live(console=Console(), auto_refresh=False) as live:
            for found in _looks(context, interval, count):
                live.update(_view(found), refresh=True)

    return verb("top", top)


def _looks(context: CommandContext, interval: float, count: int | None) -> Iterator[Sequence[Mapping[str, Any]]]:
    """The processes, again and again: ``count`` times, or until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        for look in itertools.count():
            if look:
                time.sleep(interval)
            yield context.processes()
            if look + 1 == count:
                return


def _view(processes: Sequence[Mapping[str, Any]]) -> Group | Text:
    observers = list(observer_rows(processes))
    tables = [_table(COLUMNS, rows(processes)), *([_table(OBSERVER_COLUMNS, observers)] if observers else [])]
    lines = [Text(memory_line(process)) for process in processes]
    return Group(*lines, *tables) if lines else Text(_NOTHING)


def _table(columns: Sequence[str], cells: Iterable[list[str]]) -> Table:
    made = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in cells:
        made.add_row(*(Text(cell) for cell in row))
    return made
