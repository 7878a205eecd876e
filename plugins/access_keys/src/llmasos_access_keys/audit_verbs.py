"""The verbs of ``llmasos audit``."""

from __future__ import annotations

import json
from collections import deque
from typing import Annotated, Any, Final

import attrs
import typer

from llmasos_access_keys.keys_verbs import AsJson, Folder
from llmasos_access_keys.store import open_store
from llmasos_access_keys.times import shown
from llmasos_hookspecs import Command, CommandContext

_COLUMNS: Final = ("row", "time", "principal", "tenant", "action", "resource", "outcome", "details")


def make(context: CommandContext) -> Command:
    """The verbs with their options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)

    @app.callback()
    def group() -> None:
        """Check that the audit log of servers is as it was written, and show it."""

    @app.command("verify")
    def verify(folder: Folder = "", as_json: AsJson = False) -> int:
        """Check the log: ends with 1 and says where, if a row was changed, removed, moved or added."""
        found = open_store(folder, make=False).log.verify()
        late = [f"The head of row {row} was written late: the writer before was killed." for row in found.late]
        more = [f"There are {found.more} problems more."] if found.more else []
        verdict = "The audit log was changed." if found.problems else f"The audit log is as it was written: {found.rows} rows."
        context.answer(
            {**attrs.asdict(found), "whole": not found.problems}, "\n".join([*found.problems, *more, *late, verdict]), as_json=as_json
        )
        return 1 if found.problems else 0

    @app.command("show")
    def show(
        last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many events, the newest ones.")] = 50,
        principal: Annotated[str | None, typer.Option("--principal", help="Of this key only, by its id.")] = None,
        tenant: Annotated[str | None, typer.Option("--tenant", help="Of this tenant only.")] = None,
        action: Annotated[str | None, typer.Option("--action", help="This action only, such as generate.")] = None,
        outcome: Annotated[str | None, typer.Option("--outcome", help="allowed, denied, done or failed only.")] = None,
        folder: Folder = "",
        as_json: AsJson = False,
    ) -> None:
        """Show the newest events, the newest last."""
        wanted = {"principal": principal, "tenant": tenant, "action": action, "outcome": outcome}
        kept: deque[dict[str, Any]] = deque(maxlen=last)
        for row, event in open_store(folder, make=False).log.events():
            if all(value in (None, event[name]) for name, value in wanted.items()):
                kept.append({"row": row, **event, "time": shown(event["time"])})
        if as_json:
            context.answer(list(kept), as_json=True)
        else:
            context.table(_COLUMNS, [_cells(event) for event in kept])

    return typer.main.get_command(app)


def _cells(event: dict[str, Any]) -> tuple[str, ...]:
    return (
        *(str(event[name]) for name in _COLUMNS[:-1]),
        json.dumps(event["details"], ensure_ascii=False) if event["details"] else "",
    )
