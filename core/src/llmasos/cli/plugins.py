"""``llmasos plugins``: what is installed, what each component takes, and how to get more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_note, print_result, print_table
from llmasos.cli.installed import Group
from llmasos_hookspecs import KINDS
from llmasos_hookspecs.nearest import listed

if TYPE_CHECKING:
    from llmasos.system.installation import Change

app = typer.Typer(help="Installed plugins.", cls=Group, no_args_is_help=True)

Kind = Annotated[str | None, typer.Option("--kind", help=f"Only components of one kind: {listed(kind.plural for kind in KINDS.values())}.")]


@app.command("list")
def list_plugins(context: typer.Context, kind: Kind = None, as_json: o.JsonOption = False) -> None:
    """List the installed components, from metadata alone: none is imported."""
    from llmasos.system.discovery import registry

    found = registry().entries(_singular(kind))
    problems = [*registry().problems(), *verb_clashes(context)]
    if as_json:
        components = [
            {"kind": e.kind, "name": e.name, "distribution": e.distribution, "version": e.version, "module": e.module} for e in found
        ]
        print_json({"components": components, "problems": problems})
        return
    print_table(["kind", "name", "distribution", "version"], [[e.kind, e.name, e.distribution, e.version] for e in found])
    for problem in problems:
        print_note(problem)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A component by name, or KIND:NAME where several kinds have the name.")],
    as_json: o.JsonOption = False,
) -> None:
    """Show what a component is and which options it takes; imports its module, and no framework."""
    from llmasos.system.components import load_component, missing_frameworks
    from llmasos.system.discovery import registry
    from llmasos.system.options import json_schema, render_help

    loaded = load_component(registry().named(name))
    component, entry = loaded.component, loaded.entry
    if as_json:
        facts: dict[str, Any] = {"kind": entry.kind, "name": entry.name, "distribution": entry.distribution, "version": entry.version}
        facts |= {"summary": component.summary, "options": json_schema(component.options), "examples": list(component.examples)}
        facts |= {"missing": list(missing_frameworks(component))}
        print_json(facts)
        return
    print_result(f"{entry.label}: {component.summary}")
    print_result(f"module {entry.module}")
    if entry.kind == "loader":
        print_result(f"formats {', '.join(component.formats)}; architectures {', '.join(component.architectures)}")
    for missing in missing_frameworks(component):
        print_result(f"missing {missing}; pip install {missing}")
    text = render_help(component.options)
    print_result(f"\nOptions:\n{text}" if text else "\nIt has no options.")
    for example in component.examples:
        print_result(f"Example: {example}")


Distributions = Annotated[list[str], typer.Argument(help="What pip takes: distributions, wheels, folders, or published components.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Go on without asking.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]


@app.command("install")
def install(
    what: Distributions,
    upgrade: Annotated[bool, typer.Option("--upgrade", "-U", help="Take newer versions of what is installed.")] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Install plugins with pip into the environment of this command, after showing what would change."""
    from llmasos.system.installation import requirements_for

    arguments = [*(["--upgrade"] if upgrade else []), *(each for word in what for each in requirements_for(word))]
    _install(arguments, yes=yes, dry_run=dry_run, as_json=as_json)


@app.command("uninstall")
def uninstall(
    what: Annotated[list[str], typer.Argument(help="Distributions, or components of them.")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Remove plugins with pip, after showing what would go."""
    from llmasos.system.discovery import registry
    from llmasos.system.installation import dependants, plan_removal, uninstall as remove

    changes = plan_removal(what, registry())
    names = {change.name for change in changes}
    for change in changes:
        if needing := [name for name in dependants(change.name) if name not in names]:
            print_note(f"{', '.join(needing)} will miss {change.name}.")
    if _agreed(changes, yes=yes, dry_run=dry_run, as_json=as_json):
        remove(change.name for change in changes)
        _tell(changes, as_json=as_json)


@app.command("export")
def export(
    output: Annotated[Path | None, typer.Argument(help="File to write; left out: standard output.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Write the installed plugins with their versions, for plugins restore on another machine (or pip install -r)."""
    from llmasos.system.discovery import registry
    from llmasos.system.installation import pinned_plugins
    from llmasos_hookspecs import RequestError
    from llmasos_hookspecs.atomic import write_atomically

    pins = pinned_plugins(registry())
    if output is not None:
        try:
            write_atomically(output, "".join(f"{pin}\n" for pin in pins))
        except OSError as error:
            raise RequestError(f"{output} cannot be written: {error.strerror}.") from error
    if as_json:
        print_json({"plugins": list(pins), "path": None if output is None else str(output)})
    elif output is None:
        print_result("\n".join(pins))
    else:
        print_note(f"{output} has {len(pins)} plugins; llmasos plugins restore {output} installs them.")


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="What llmasos plugins export wrote.")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Install the plugins of an exported file, in those versions."""
    from llmasos_hookspecs import RequestError

    if not file.is_file():
        raise RequestError(f"There is no file {file}; llmasos plugins export {file} writes one.")
    _install([f"--requirement={file}"], yes=yes, dry_run=dry_run, as_json=as_json)


def _install(arguments: list[str], *, yes: bool, dry_run: bool, as_json: bool) -> None:
    from llmasos.system.discovery import registry
    from llmasos.system.installation import install as run_pip, plan_installation

    changes = plan_installation(arguments)
    if not changes:
        if as_json:
            print_json({"changes": []})
        else:
            print_note("Everything is installed already; nothing changes.")
        return
    if _agreed(changes, yes=yes, dry_run=dry_run, as_json=as_json):
        before = set(registry().entries())
        run_pip(arguments)
        _tell(changes, as_json=as_json)
        if not as_json:
            for entry in set(registry().entries()) - before:
                print_result(f"{entry.label} is ready; llmasos plugins show {entry.kind}:{entry.name} tells its options.")


def _agreed(changes: tuple[Change, ...], *, yes: bool, dry_run: bool, as_json: bool) -> bool:
    """Show what would change, and ask; False where it is only to be shown, or the user says no."""
    import sys

    from llmasos_hookspecs import RequestError

    if not as_json:
        rows = [[c.name, c.installed or "-", c.version or "removed", "" if c.requested else "required"] for c in changes]
        print_table(["distribution", "installed", "will be", ""], rows)
    if dry_run:
        if as_json:
            _print_changes(changes)
        return False
    if yes:
        return True
    if as_json or not sys.stdin.isatty():
        raise RequestError("Nothing is changed without being asked; give --yes to go on, or --dry-run to look only.")
    return typer.confirm("Go on?", err=True)


def _tell(changes: tuple[Change, ...], *, as_json: bool) -> None:
    from llmasos.system.discovery import registry

    registry().rescan()
    if as_json:
        _print_changes(changes)
    else:
        print_note("Done.")


def _print_changes(changes: tuple[Change, ...]) -> None:
    import attrs

    print_json({"changes": [attrs.asdict(change) for change in changes]})


def verb_clashes(context: typer.Context) -> list[str]:
    """One sentence for each installed command that has the name of a built-in verb."""
    from llmasos.cli.installed import Verbs

    group = context.find_root().command
    assert isinstance(group, Verbs)
    return group.clashes()


def _singular(kind: str | None) -> str | None:
    from llmasos_hookspecs import RequestError
    from llmasos_hookspecs.nearest import did_you_mean

    if kind is None:
        return None
    found = next((each.name for each in KINDS.values() if kind in (each.name, each.plural)), None)
    if found is None:
        raise RequestError(f'"{kind}" is no kind of component{did_you_mean(kind, KINDS)}')
    return found
