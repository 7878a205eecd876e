"""``llmasos ps`` and ``llmasos top``: which models run on this machine, and what they are doing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from llmasos.cli import options as o
from llmasos.cli.console import in_bytes, print_json, print_note, print_table

_COLUMNS: Final = ("pid", "model", "state", "running", "waiting", "weights", "kv", "kv %", "hits", "prefill/s", "decode/s", "done", "where")
_OBSERVER_COLUMNS: Final = ("pid", "observer", "waiting", "dropped")


def ps(as_json: o.JsonOption = False) -> None:
    """List the models of every process of this user, and what they are doing; and observers, with the events that each was too slow for."""
    from llmasos.compose.status import read_status

    found = list(read_status())
    if as_json:
        print_json(found)
    elif rows := list(_rows(found)):
        print_table(_COLUMNS, rows)
        if observers := list(_observer_rows(found)):
            print_table(_OBSERVER_COLUMNS, observers)
    else:
        print_note("No process of this user has a model open.")


def top(
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, help="Seconds between two looks.")] = 1.0,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Looks until it ends; left out: until Ctrl-C.")] = None,
) -> None:
    """Show live what the models of every process of this user are doing."""
    from rich.console import Console
    from rich.live import Live

    from llmasos.compose.status import read_status

    looks = 0
    with Live(console=Console(), auto_refresh=False) as live:
        try:
            while True:
                live.update(_view(list(read_status())), refresh=True)
                looks += 1
                if looks == count:
                    return
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _view(processes: list[dict[str, Any]]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def table(columns: Sequence[str], rows: Iterable[list[str]]) -> Table:
        made = Table(*columns, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            made.add_row(*(Text(cell) for cell in row))
        return made

    observers = list(_observer_rows(processes))
    tables = [table(_COLUMNS, _rows(processes)), *([table(_OBSERVER_COLUMNS, observers)] if observers else [])]
    lines = [Text(f"{process['pid']}: {_memory(process['memory'])}") for process in processes]
    return Group(*lines, *tables) if lines else Text("No process of this user has a model open.")


def _memory(memory: Mapping[str, Any]) -> str:
    of = "" if memory["limit"] is None else f" of {in_bytes(memory['limit'])}"
    waiting = f", {memory['waiting']} wait for memory" if memory["waiting"] else ""
    return f"{in_bytes(memory['used'])}{of} in use, {in_bytes(memory['weights'])} weights and {in_bytes(memory['kv'])} KV{waiting}"


def _rows(processes: list[dict[str, Any]]) -> Iterator[list[str]]:
    for process in processes:
        for name, model in process["models"].items():
            known = {key: model.get(key, 0) for key in ("kv_used", "kv_cached", "kv_capacity")}
            full = (known["kv_used"] + known["kv_cached"]) / known["kv_capacity"] if known["kv_capacity"] else 0.0
            yield [
                str(process["pid"]),
                name,
                model["state"],
                str(model.get("running", 0)),
                str(model.get("waiting", 0)),
                in_bytes(model["weight_bytes"]),
                in_bytes(model["kv_bytes"]),
                f"{full:.0%}",
                str(model.get("cache_hits", 0)),
                f"{model.get('prefill_rate', 0.0):.0f}",
                f"{model.get('decode_rate', 0.0):.0f}",
                str(model.get("finished", 0)),
                "; ".join(each["where"] for each in model.get("replicas", ())),
            ]


def _observer_rows(processes: list[dict[str, Any]]) -> Iterator[list[str]]:
    for process in processes:
        for observer in process.get("observers", ()):  # a process of an older version tells none
            yield [str(process["pid"]), observer["observer"], str(observer["waiting"]), str(observer["dropped"])]
