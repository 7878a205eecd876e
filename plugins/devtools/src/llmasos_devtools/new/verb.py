"""The verb ``plugins new``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_devtools.new.scaffold import new_plugin
from llmasos_hookspecs import KINDS, Command, CommandContext


def make(context: CommandContext) -> Command:
    """The verb with its options."""

    def new(
        kind: Annotated[str, typer.Argument(help=f"The kind of component: {', '.join(KINDS)}.")],
        name: Annotated[str, typer.Argument(help="Name of the component and its package, such as my-accel.")],
        folder: Annotated[Path, typer.Option("--in", help="Folder to make the package's folder in.")] = Path(),
        as_json: o.JsonOption = False,
    ) -> None:
        """Write a whole plugin package that passes its own tests, to start from."""
        taken = {each.name for each in context.components(kind if kind in KINDS else None)}
        path = new_plugin(kind, name, folder.resolve(), taken=taken)
        context.answer(
            {"path": str(path), "kind": kind, "name": name},
            f"{path} is written; next: cd {path.name} && pip install -e '.[testing]' && python -m pytest",
            as_json=as_json,
        )

    return verb("new", new)
