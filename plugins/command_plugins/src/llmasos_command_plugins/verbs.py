"""The verbs ``plugins install``, ``uninstall``, ``export`` and ``restore``."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import attrs
import typer

from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_command_plugins.installation import (
    Change,
    dependants,
    install as run_pip,
    pinned_plugins,
    plan_installation,
    plan_removal,
    requirements_for,
    uninstall as remove,
)
from llmasos_hookspecs import GROUPS, Command, CommandContext, RequestError
from llmasos_hookspecs.atomic import write_atomically

Distributions = Annotated[list[str], typer.Argument(help="What pip takes: distributions, wheels, folders, or published components.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Go on without asking.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]


def make_install(context: CommandContext) -> Command:
    """``plugins install`` with its options."""

    def install(
        what: Distributions,
        upgrade: Annotated[bool, typer.Option("--upgrade", "-U", help="Take newer versions of what is installed.")] = False,
        yes: YesOption = False,
        dry_run: DryRunOption = False,
        as_json: o.JsonOption = False,
    ) -> None:
        """Install plugins with pip into the environment of this command, after showing what would change."""
        arguments = [*(["--upgrade"] if upgrade else []), *(each for word in what for each in requirements_for(word, context.published()))]
        _install(context, arguments, yes=yes, dry_run=dry_run, as_json=as_json)

    return verb("install", install)


def make_uninstall(context: CommandContext) -> Command:
    """``plugins uninstall`` with its options."""

    def uninstall(
        what: Annotated[list[str], typer.Argument(help="Distributions, or components of them.")],
        yes: YesOption = False,
        dry_run: DryRunOption = False,
        as_json: o.JsonOption = False,
    ) -> None:
        """Remove plugins with pip, after showing what would go."""
        changes = plan_removal(what, context.components())
        names = {change.name for change in changes}
        for change in changes:
            if needing := [name for name in dependants(change.name) if name not in names]:
                context.note(f"{', '.join(needing)} will miss {change.name}.")
        if _agreed(context, changes, yes=yes, dry_run=dry_run, as_json=as_json):
            remove(change.name for change in changes)
            _tell(context, changes, as_json=as_json)

    return verb("uninstall", uninstall)


def make_export(context: CommandContext) -> Command:
    """``plugins export`` with its options."""

    def export(
        output: Annotated[Path | None, typer.Argument(help="File to write; left out: standard output.")] = None,
        as_json: o.JsonOption = False,
    ) -> None:
        """Write the installed plugins with their versions, for plugins restore on another machine (or pip install -r)."""
        pins = pinned_plugins(context.components())
        if output is not None:
            try:
                write_atomically(output, "".join(f"{pin}\n" for pin in pins))
            except OSError as error:
                raise RequestError(f"{output} cannot be written: {error.strerror}.") from error
        if output is None or as_json:
            found = {"plugins": list(pins), "path": None if output is None else str(output)}
            context.answer(found, "\n".join(pins), as_json=as_json)
        else:
            context.note(f"{output} has {len(pins)} plugins; llmasos plugins restore {output} installs them.")

    return verb("export", export)


def make_restore(context: CommandContext) -> Command:
    """``plugins restore`` with its options."""

    def restore(
        file: Annotated[Path, typer.Argument(help="What llmasos plugins export wrote.")],
        yes: YesOption = False,
        dry_run: DryRunOption = False,
        as_json: o.JsonOption = False,
    ) -> None:
        """Install the plugins of an exported file, in those versions."""
        if not file.is_file():
            raise RequestError(f"There is no file {file}; llmasos plugins export {file} writes one.")
        _install(context, [f"--requirement={file}"], yes=yes, dry_run=dry_run, as_json=as_json)

    return verb("restore", restore)


def _install(context: CommandContext, arguments: Sequence[str], *, yes: bool, dry_run: bool, as_json: bool) -> None:
    published = context.published()
    changes = plan_installation(arguments, published)
    if not changes:
        context.answer({"changes": []}, "Everything is installed already; nothing changes.", as_json=as_json)
        return
    if _agreed(context, changes, yes=yes, dry_run=dry_run, as_json=as_json):
        before = _components()
        run_pip(arguments, published)
        _tell(context, changes, as_json=as_json)
        for kind, name, distribution in () if as_json else sorted(_components() - before):
            label = f'{kind} "{name}" ({distribution})'
            context.answer(None, f"{label} is ready; llmasos plugins show {kind}:{name} tells its options.")


def _components() -> set[tuple[str, str, str]]:
    """Kind, name and distribution with its version of all that is installed now; the context's list is as old as this process."""
    importlib.invalidate_caches()
    return {
        (kind, point.name, f"{point.dist.name} {point.dist.version}")
        for kind, group in GROUPS.items()
        for point in importlib.metadata.entry_points(group=group)
        if point.dist is not None
    }


def _agreed(context: CommandContext, changes: Sequence[Change], *, yes: bool, dry_run: bool, as_json: bool) -> bool:
    """Show what would change, and ask; False where it is only to be shown, or the user says no."""
    if not as_json:
        rows = [[c.name, c.installed or "-", c.version or "removed", "" if c.requested else "required"] for c in changes]
        context.table(["distribution", "installed", "will be", ""], rows)
    if dry_run:
        if as_json:
            _print_changes(context, changes)
        return False
    if yes:
        return True
    if as_json or not sys.stdin.isatty():
        raise RequestError("Nothing is changed without being asked; give --yes to go on, or --dry-run to look only.")
    return typer.confirm("Go on?", err=True)


def _tell(context: CommandContext, changes: Sequence[Change], *, as_json: bool) -> None:
    if as_json:
        _print_changes(context, changes)
    else:
        context.note("Done.")


def _print_changes(context: CommandContext, changes: Sequence[Change]) -> None:
    context.answer({"changes": [attrs.asdict(change) for change in changes]}, as_json=True)
