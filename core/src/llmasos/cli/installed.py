"""Verbs that plugins bring (kind ``command``): listed from metadata alone, imported when they run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from llmasos.cli.completion import KnownNames
from llmasos.cli.console import TerminalSink, print_error, print_note
from llmasos_hookspecs import PluginError
from llmasos_hookspecs.nearest import nearest

if TYPE_CHECKING:
    from llmasos.system.components import LoadedComponent
    from llmasos.system.discovery import InstalledComponent

#: Exit code of an interrupted command.
INTERRUPTED = 130
#: What asks every verb for its help.
HELP: Final = ["--help", "-h"]

#: In the name of a command between a verb and the option that runs it: ``task.--batch`` is what ``llmasos task`` does with ``--batch``.
_OPTION: Final = ".--"


class Verbs(TyperGroup):
    """The built-in verbs and the installed ones. A built-in verb is never replaced, nor an option that it has; of an installed verb that
    several distributions offer, one is meant by ``dist:name``."""

    @property
    def prefix(self) -> str:
        """What the names of installed commands begin with that are verbs of this group."""
        return ""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if parent is None:
            extra.setdefault("obj", KnownNames())
        return super().make_context(info_name, args, parent, **extra)

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
            return self._option_command(ctx, args) or super().resolve_command(ctx, args)
        except TyperException as error:  # which suggests built-in verbs only
            from llmasos.system.discovery import registry
            from llmasos_config.catalog import published
            from llmasos_config.foreign_words import foreign_words

            distribution = published().get("command", {}).get(self.prefix + args[0])
            if distribution is not None:
                raise PluginError(f"{ctx.command_path} {args[0]} is not installed; pip install {distribution}.") from error
            ours = foreign_words(f"commands.{self.prefix}".rstrip(".")).get(args[0].lower())
            if ours is None and not self.prefix and any(entry.name == args[0] for entry in registry().entries("task")):
                ours = f"task {args[0]}"
            if ours:
                error.message = f"No such command '{args[0]}'; here it is {ctx.command_path} {ours}."
            elif "Did you mean" not in error.message and (close := nearest(args[0], self.installed())) is not None:
                error.message = f"{error.message.rstrip('.')}. Did you mean '{close}'?"
            raise

    def _option_command(self, ctx: Any, args: list[str]) -> Any:
        """What ``resolve_command`` returns where an option of a verb is an installed command; None where none is.

        Raises ``PluginError`` where one is published that is not installed.
        """
        from llmasos.system.discovery import registry
        from llmasos_config.catalog import published

        verb, *words = args
        builtin = super().get_command(ctx, verb)
        given = [word.partition("=")[0] for word in words if word.startswith("--")]
        if self.prefix or isinstance(builtin, TyperGroup) or ctx.resilient_parsing or not given:
            return None
        for option in given:
            name = f"{verb}{_OPTION}{option.removeprefix('--')}"
            if has_option(builtin, option):
                continue
            for entry in registry().entries("command"):
                if entry.name == name:
                    return verb, InstalledVerb(verb, entry, name), words
            if (distribution := published().get("command", {}).get(name)) is not None:
                raise PluginError(f"{ctx.command_path} {verb} {option} is not installed; pip install {distribution}.")
        return None

    def installed(self) -> dict[str, list[InstalledComponent]]:
        """The installed commands that are verbs of this group and have no built-in verb's name: verb -> what offers it."""
        from llmasos.system.discovery import registry

        found: dict[str, list[InstalledComponent]] = {}
        for entry in registry().entries("command"):
            verb = entry.name.removeprefix(self.prefix)
            if entry.name.startswith(self.prefix) and "." not in verb and not verb.startswith("-") and verb not in self.commands:
                found.setdefault(verb, []).append(entry)
        return found

    def clashes(self) -> list[str]:
        """One sentence for each installed command that has the name of a built-in verb, or extends a group that is not there."""
        from llmasos.system.discovery import registry

        found = []
        for entry in registry().entries("command"):
            fault = self._misfit(entry.name)
            if not fault:
                continue
            found.append(
                f"The {entry.label} is not used: {fault}; ask the author of {entry.distribution} for another name, or pip uninstall "
                f"{entry.distribution}."
            )
        return found

    def _misfit(self, name: str) -> str:
        """Why an installed command of that name is not used; empty where it is."""
        verb, option, rest = name.partition(_OPTION)
        if option:
            known = self.commands.get(verb)
            if isinstance(known, Verbs) or (known is None and verb not in self.installed()):
                return f"llmasos has no verb {verb} with options"
            return f"{verb} --{rest} is an option of llmasos itself" if has_option(known, f"--{rest}") else ""
        verb, dot, rest = name.partition(".")
        group = self.commands.get(verb) if dot else self
        if not isinstance(group, Verbs) or "." in rest:
            return f"llmasos has no group of verbs {name.rpartition('.')[0]}"
        return f"{name.replace('.', ' ')} is a verb of llmasos itself" if (rest or verb) in group.commands else ""


class Group(Verbs):
    """A built-in group of verbs, such as ``plugins``: an installed command named ``plugins.new`` is its verb ``new``."""

    @property
    def prefix(self) -> str:
        return f"{self.name}."


class OpenVerb(TyperCommand):
    """A built-in verb whose help lists the options that are installed commands."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from llmasos.system.discovery import registry

        super().format_options(ctx, formatter)
        rows = [
            (entry.name.removeprefix(f"{self.name}."), _about(entry))
            for entry in registry().entries("command")
            if entry.name.startswith(f"{self.name}{_OPTION}") and not has_option(self, entry.name.removeprefix(f"{self.name}."))
        ]
        if rows:
            with formatter.section("Options of plugins, each with a --help of its own"):
                formatter.write_dl(rows)


def has_option(command: Any, option: str) -> bool:
    """Whether a command declares the option itself."""
    return any(option in (*each.opts, *each.secondary_opts) for each in getattr(command, "params", ()))


def _about(entry: InstalledComponent) -> str:
    """What a command's distribution says of itself, without a full stop inside: help shows the first sentence only."""
    return f"{entry.summary.rstrip('.') if entry.summary.isprintable() else ''} ({entry.distribution} {entry.version}).".lstrip()


class InstalledVerb(TyperCommand):
    """Stands for a command that is not imported; whatever follows its name is the command's own. ``use`` is how the registry knows it."""

    def __init__(self, name: str, entry: InstalledComponent, use: str) -> None:
        self.use = use
        super().__init__(
            name,
            help=_about(entry),
            add_help_option=False,
            rich_markup_mode=None,
        )

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Where the shell completes what follows the verb, the command's own context; it is imported for that."""
        if extra.get("resilient_parsing"):
            with contextlib.suppress(Exception):  # one that is broken says so when it is run, and completes nothing
                _, command = _made(self.use)
                return command.make_context(info_name, args, parent=parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

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
    from llmasos_hookspecs.guarding.edge import crossing

    loaded, command = _made(use)
    if isinstance(settings := getattr(command, "context_settings", None), dict):  # of typer or click
        settings.setdefault("help_option_names", HELP)
    called = loaded.entry.name.partition(_OPTION)[0].replace(".", " ")
    with crossing(loaded.entry.label, "its command"):
        try:
            result = command.main(list(arguments), prog_name=f"llmasos {called}", standalone_mode=False)
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


def _made(use: str) -> tuple[LoadedComponent, Any]:
    """An installed command, imported and made."""
    from llmasos.cli.command_context import CommandContext
    from llmasos.compose.formats import formats
    from llmasos.system.components import load_component
    from llmasos.system.discovery import registry
    from llmasos_options import structure_options

    loaded = load_component(registry().find("command", use))
    calls = formats(sink=TerminalSink()).calls
    options: Any = structure_options(loaded.component.options, {}, f"commands.{loaded.entry.name}")
    context = CommandContext(calls.context(loaded))
    return loaded, calls.plugins.call(calls.plugins.take(loaded), "llmasos_command", options=options, context=context)


def _shown(error: Exception) -> int | None:
    """The exit code of an error of the library that the command is made with, which is shown; None for any other error."""
    if type(error).__name__ == "Abort" and type(error).__module__.partition(".")[0] in ("click", "typer"):
        print_note("Interrupted.")
        return INTERRUPTED
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if not callable(show) or not isinstance(code, int):
        return None
    from llmasos.cli.foreign_options import in_our_words

    sys.stdout.flush()
    in_our_words(error)
    show()
    return code
