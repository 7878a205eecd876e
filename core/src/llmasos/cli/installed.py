"""Verbs that plugins bring (kind ``command``): listed from metadata alone, imported when they run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from llmasos.cli.console import TerminalSink, print_error, print_json, print_note, print_result, print_table
from llmasos_hookspecs import PluginError, RequestError
from llmasos_hookspecs.nearest import nearest

if TYPE_CHECKING:
    from llmasos.api.model import LanguageModel
    from llmasos.api.pipeline import Pipeline
    from llmasos.system.discovery import InstalledComponent
    from llmasos_hookspecs import CommandModel, ComponentEntry, Report, Task, TaskRow, TaskRun

#: Exit code of an interrupted command.
INTERRUPTED = 130


class Verbs(TyperGroup):
    """The built-in verbs and the installed ones. A built-in verb is never replaced; of an installed verb that several distributions offer,
    one is meant by ``dist:name``."""

    @property
    def prefix(self) -> str:
        """What the names of installed commands begin with that are verbs of this group."""
        return ""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *sorted(self.installed())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        builtin = super().get_command(ctx, cmd_name)
        if builtin is not None:
            return builtin
        distribution, colon, verb = cmd_name.rpartition(":")
        offered = [entry for entry in self.installed().get(verb, ()) if not colon or entry.distribution == distribution]
        return InstalledVerb(cmd_name, offered[0], f"{distribution}{colon}{self.prefix}{verb}") if offered else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except TyperException as error:  # which suggests built-in verbs only
            from llmasos.system.catalog import published

            distribution = published().get("command", {}).get(self.prefix + args[0])
            if distribution is not None:
                raise PluginError(f"{ctx.command_path} {args[0]} is not installed; pip install {distribution}.") from error
            close = nearest(args[0], self.installed())
            if close is not None and "Did you mean" not in error.message:
                error.message = f"{error.message.rstrip('.')}. Did you mean '{close}'?"
            raise

    def installed(self) -> dict[str, list[InstalledComponent]]:
        """The installed commands that are verbs of this group and have no built-in verb's name: verb -> what offers it."""
        from llmasos.system.discovery import registry

        found: dict[str, list[InstalledComponent]] = {}
        for entry in registry().entries("command"):
            verb = entry.name.removeprefix(self.prefix)
            if entry.name.startswith(self.prefix) and "." not in verb and verb not in self.commands:
                found.setdefault(verb, []).append(entry)
        return found

    def clashes(self) -> list[str]:
        """One sentence for each installed command that has the name of a built-in verb, or extends a group that is not there."""
        from llmasos.system.discovery import registry

        found = []
        for entry in registry().entries("command"):
            name, dot, verb = entry.name.partition(".")
            group = self.commands.get(name) if dot else self
            if not isinstance(group, Verbs) or "." in verb:
                fault = f"llmasos has no group of verbs {entry.name.rpartition('.')[0]}"
            elif (verb or name) in group.commands:
                fault = f"{entry.name.replace('.', ' ')} is a verb of llmasos itself"
            else:
                continue
            found.append(
                f"The {entry.label} is not used: {fault}; ask the author of {entry.distribution} for another name, or pip uninstall "
                f"{entry.distribution}."
            )
        return found


class Group(Verbs):
    """A built-in group of verbs, such as ``plugins``: an installed command named ``plugins.new`` is its verb ``new``."""

    @property
    def prefix(self) -> str:
        return f"{self.name}."


class InstalledVerb(TyperCommand):
    """Stands for a command that is not imported; whatever follows its name is the command's own. ``use`` is how the registry knows it."""

    def __init__(self, name: str, entry: InstalledComponent, use: str) -> None:
        self.use = use
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
        return run_installed(self.use, ctx.args)


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
    calls = formats(sink=TerminalSink()).calls
    options: Any = structure_options(loaded.component.options, {}, f"commands.{loaded.entry.name}")
    context = CommandContext(calls.context(loaded))
    command = calls.plugins.call(calls.plugins.take(loaded), "llmasos_command", options=options, context=context)
    with crossing(loaded.entry.label, "its command"):
        try:
            result = command.main(list(arguments), prog_name=f"llmasos {loaded.entry.name.replace('.', ' ')}", standalone_mode=False)
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

        return [_announced(entry) for entry in registry().entries(kind)]

    def find(self, name: str) -> ComponentEntry:
        from llmasos.system.discovery import registry

        return _announced(registry().named(name))

    def try_component(self, entry: ComponentEntry) -> str | None:
        from llmasos.system.diagnosis import try_component

        return try_component(entry.kind, f"{entry.distribution}:{entry.name}")

    def describe_system(self) -> Mapping[str, Any]:
        from llmasos.system.diagnosis import describe_system

        return describe_system()

    def python(self, code: str, *arguments: str, first: Sequence[Path] = ()) -> list[str]:
        from llmasos.system.isolation import code_command

        return code_command(code, *arguments, first=first)

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

    def measure(
        self,
        references: Sequence[str | None],
        suites: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        base: str | None = None,
        corpus: Path | None = None,
        loader: str | None = None,
        config: Path | None = None,
        settings: Sequence[str] = (),
        quiet: bool = False,
    ) -> Report:
        from llmasos.api.side_by_side import measure_side_by_side
        from llmasos.system.config import ComponentConfig

        asked = [ComponentConfig(use, options, f"suites[{index}]") for index, (use, options) in enumerate(suites)]
        open_model = _opening(config, settings, loader, quiet)
        return measure_side_by_side(references, open_model, asked, base=base, corpus=corpus)

    def run_task(
        self,
        task: str,
        rows: Path,
        references: Sequence[str | None],
        choose: Callable[[Task, TaskRow], Collection[str]],
        *,
        loader: str | None = None,
        config: Path | None = None,
        settings: Sequence[str] = (),
        quiet: bool = False,
    ) -> Sequence[TaskRun]:
        from llmasos.api.side_by_side import run_side_by_side

        return run_side_by_side(task, rows, references, choose, _opening(config, settings, loader, quiet), TerminalSink(quiet=quiet))

    @contextmanager
    def new_folder(self, output: Path) -> Iterator[Path]:
        from llmasos.acceleration.export import appearing, check_output

        for problem in check_output(output):
            raise RequestError(problem)
        with appearing(output) as folder:
            yield folder

    def answer(self, value: Any, text: str = "", *, as_json: bool = False) -> None:
        if as_json:
            print_json(value)
        else:
            print_result(text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        print_table(columns, rows)


def _opening(
    config: Path | None, settings: Sequence[str], loader: str | None, quiet: bool
) -> Callable[[str | None], tuple[Pipeline, LanguageModel]]:
    """What opens a model that a command names, as ``CommandContext.model`` does."""
    from llmasos.cli.options import open_pipeline

    return lambda reference: open_pipeline(config, list(settings), model=reference, loader=loader, quiet=quiet)


def _announced(entry: InstalledComponent) -> ComponentEntry:
    """What a command is told of an installed component."""
    from llmasos_hookspecs import ComponentEntry

    return ComponentEntry(**{field.name: getattr(entry, field.name) for field in attrs.fields(ComponentEntry)})
