"""Reference of the command line, from the verbs themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main
from tools.site.words import cell, table

from llmasos.cli.app import app
from llmasos.cli.command_context import CommandContext
from llmasos.compose.formats import formats
from llmasos.system.components import load_component
from llmasos.system.discovery import InstalledComponent, registry
from llmasos_options import structure_options


def commands() -> Iterator[tuple[str, Any]]:
    """Every verb as it is typed, with its command: the built-in ones, then those of this project's plugins."""
    yield from _below("llmasos", typer.main.get_command(app))
    for entry in registry().entries("command"):
        if entry.distribution.startswith("llmasos"):
            yield from _below(f"llmasos {entry.name.replace('.', ' ')}", _made(entry))


def _made(entry: InstalledComponent) -> Any:
    """The command that a plugin brings, made as ``llmasos`` makes it."""
    loaded, calls = load_component(entry), formats().calls
    options: Any = structure_options(loaded.component.options, {}, f"commands.{entry.name}")
    context = CommandContext(calls.context(loaded))
    return calls.plugins.call(calls.plugins.take(loaded), "llmasos_command", options=options, context=context)


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        yield from _below(f"{path} {name}", below)


def page() -> str:
    """The page of all verbs."""
    lines = [
        "# Command line",
        "",
        "Every verb has `--help`, and `--json` where it prints results. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted. In a",
        "clone the command is `.venv/bin/llmasos`.",
        "",
    ]
    for path, command in commands():
        lines += [f"## `{path}`", "", cell(command.help or ""), "", *_usage(path, command), ""]
        lines += [table(["argument or option", "meaning"], list(_rows(command))), ""]
    return "\n".join(lines) + "\n"


def _usage(path: str, command: Any) -> list[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    return ["```text", " ".join([path, *command.collect_usage_pieces(context)]), "```"]


def _rows(command: Any) -> Iterator[list[str]]:
    context = command.make_context(command.name, [], resilient_parsing=True)
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None and "--help" not in param.opts:
            yield [f"`{record[0]}`", cell(record[1])]
