"""Verbs that plugins bring (kind ``command``): listed from metadata alone, imported when they run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from llmasos.cli.console import print_error, print_json, print_note, print_result, print_table
from llmasos_hookspecs.nearest import nearest

if TYPE_CHECKING:
    from llmasos.system.discovery import InstalledComponent
    from llmasos_hookspecs import CommandModel, ComponentEntry

#: Exit code of an interrupted command.
INTERRUPTED = 130


class Verbs(TyperGroup):
    """The built-in verbs and the installed ones. A built-in verb is never replaced; of an installed verb that several distributions offer,
    one is meant by ``dist:name``."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *sorted({entry.name for entry in self.installed()})]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        builtin = super().get_command(ctx, cmd_name)
        if builtin is not None:
            return builtin
        named = [entry for entry in self.installed() if cmd_name in (entry.name, entry.qualified)]
        return InstalledVerb(cmd_name, named[0]) if named else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except TyperException as error:  # which suggests built-in verbs only
            from llmasos.system.catalog import published

            distribution = published()["command"].get(args[0])
            close = nearest(args[0], [entry.name for entry in self.installed()])
            if distribution is not None:
                error.message = f"The command '{args[0]}' is not installed; pip install {distribution}."
            elif close is not None and "Did you mean" not in error.message:
                error.message = f"{error.message.rstrip('.')}. Did you mean '{close}'?"
            raise

    def installed(self) -> list[InstalledComponent]:
        """The installed commands whose names are no built-in verb's."""
        from llmasos.system.discovery import registry

        return [entry for entry in registry().entries("command") if entry.name not in self.commands]

    def clashes(self) -> list[str]:
        """One sentence for each installed command that has the name of a built-in verb."""
        from llmasos.system.discovery import registry

        return [
            f"The {entry.label} is not used: {entry.name} is a verb of llmasos itself; ask the author of {entry.distribution} for another "
            f"name, or pip uninstall {entry.distribution}."
            for entry in registry().entries("command")
            if entry.name in self.commands
        ]


class InstalledVerb(TyperCommand):
    """Stands for a command that is not imported; whatever follows its name is the command's own."""

    def __init__(self, name: str, entry: InstalledComponent) -> None:
        self.entry = entry
        super().__init__(
            name,
            # Without a full stop inside: help shows the first sentence only.
            help=f"{entry.summary.rstrip('.') if entry.summary.isprintable() else ''} ({entry.distribution} {entry.version}).".lstrip(),
            add_help_option=False,
            rich_markup_mode=None,
        )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = args
        return args

    def invoke(self, ctx: Any) -> int:
        return run_installed(str(self.name), ctx.args)


def run_installed(use: str, arguments: Sequence[str]) -> int:
    """Import an installed command and run it; returns the exit code.

    Raises:
        PluginError: several distributions offer the name, the plugin is broken, or it failed with an error that it did not mean.
        LLMasOSError: an error that it raised on purpose.
    """
    from llmasos.compose.formats import formats
    from llmasos.system.components import load_component
    from llmasos.system.discovery import registry
    from llmasos.system.options import structure_options
    from llmasos_hookspecs.guarding.edge import crossing

    loaded = load_component(registry().find("command", use))
    access = formats().access
    options: Any = structure_options(loaded.component.options, {}, f"commands.{loaded.entry.name}")
    context = CommandContext(access.context(loaded))
    command = access.plugins.call(access.plugins.take(loaded), "llmasos_command", options=options, context=context)
    with crossing(loaded.entry.label, "its command"):
        try:
            result = command.main(list(arguments), prog_name=f"llmasos {loaded.entry.name}", standalone_mode=False)
        except SystemExit as end:  # the usual way to end a program with an exit code
            if end.code is None or isinstance(end.code, int):
                return end.code or 0
            print_error(str(end.code))
            return 1
        except Exception as error:
            code = _shown(error)
            if code is None:
                raise
            return code
    return result if type(result) is int else 0


def _shown(error: Exception) -> int | None:
    """The exit code of an error of the library that the command is made with, which is shown; None for any other error."""
    if type(error).__name__ == "Abort" and type(error).__module__.partition(".")[0] in ("click", "typer"):
        print_note("Interrupted.")
        return INTERRUPTED
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if not callable(show) or not isinstance(code, int):
        return None
    sys.stdout.flush()
    show()
    return code


class CommandContext:
    """Implements ``llmasos_hookspecs.CommandContext`` around the context that every hook gets."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def components(self, kind: str | None = None) -> Sequence[ComponentEntry]:
        from llmasos.system.discovery import registry
        from llmasos_hookspecs import ComponentEntry

        names = [field.name for field in attrs.fields(ComponentEntry)]
        return [ComponentEntry(**{name: getattr(entry, name) for name in names}) for entry in registry().entries(kind)]

    @contextmanager
    def model(
        self,
        reference: str | None = None,
        *,
        loader: str | None = None,
        config: Path | None = None,
        settings: Sequence[str] = (),
        quiet: bool = False,
    ) -> Iterator[CommandModel]:
        from llmasos.cli.options import open_pipeline

        pipeline, model = open_pipeline(config, list(settings), model=reference, loader=loader, quiet=quiet)
        with pipeline:
            yield model

    def answer(self, value: Any, text: str = "", *, as_json: bool = False) -> None:
        if as_json:
            print_json(value)
        else:
            print_result(text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        print_table(columns, rows)
