"""A function as a verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from llmasos_hookspecs import Command


def verb(name: str, function: Callable[..., Any], **settings: Any) -> Command:
    """The command of a function with typer's annotations, whose docstring is its help; what it returns is the exit code. ``settings`` are
    those of ``typer.Typer.command``."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(name, **settings)(function)
    return typer.main.get_command(app)
