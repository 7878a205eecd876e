"""``llmasos plugins``: what is installed, and what each component takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_note, print_result, print_table

app = typer.Typer(help="Installed plugins.", no_args_is_help=True)

Kind = Annotated[str | None, typer.Option("--kind", help="Only sources, loaders, accelerators, schedulers, tasks or observers.")]


@app.command("list")
def list_plugins(kind: Kind = None, as_json: o.JsonOption = False) -> None:
    """List the installed components, from metadata alone: none is imported."""
    from llmasos.system.discovery import registry

    found = registry().entries(_singular(kind))
    problems = registry().problems()
    if as_json:
        components = [
            {"kind": e.kind, "name": e.name, "distribution": e.distribution, "version": e.version, "module": e.module} for e in found
        ]
        print_json({"components": components, "problems": list(problems)})
        return
    print_table(["kind", "name", "distribution", "version"], [[e.kind, e.name, e.distribution, e.version] for e in found])
    for problem in problems:
        print_note(problem)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A component: fifo, or scheduler:fifo where several kinds have the name.")],
    as_json: o.JsonOption = False,
) -> None:
    """Show what a component is and which options it takes; imports its module, and no framework."""
    from llmasos.system.components import load_component, missing_frameworks
    from llmasos.system.options import json_schema, render_help

    loaded = load_component(_find(name))
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


@app.command("new")
def new(
    kind: Annotated[str, typer.Argument(help="source, loader, accelerator, scheduler, task or observer.")],
    name: Annotated[str, typer.Argument(help="Name of the component and its package, such as my-accel.")],
    folder: Annotated[Path, typer.Option("--in", help="Folder to make the package's folder in.")] = Path(),
    as_json: o.JsonOption = False,
) -> None:
    """Write a whole plugin package that passes its own tests, to start from."""
    from llmasos.system.scaffold import new_plugin

    path = new_plugin(kind, name, folder.resolve())
    if as_json:
        print_json({"path": str(path), "kind": kind, "name": name})
        return
    print_result(f"{path} is written; next: cd {path.name} && pip install -e '.[testing]' && python -m pytest")


def _singular(kind: str | None) -> str | None:
    from llmasos.system.nearest import did_you_mean
    from llmasos_hookspecs import GROUPS, RequestError

    if kind is None:
        return None
    single = kind.removesuffix("s")
    if single not in GROUPS:
        raise RequestError(f'"{kind}" is no kind of component{did_you_mean(single, GROUPS)}')
    return single


def _find(name: str) -> Any:
    from llmasos.system.discovery import registry
    from llmasos.system.nearest import did_you_mean
    from llmasos_hookspecs import GROUPS, PluginError

    kind, colon, rest = name.partition(":")
    if colon and kind in GROUPS:
        return registry().find(kind, rest)
    found = [entry for entry in registry().entries() if name in (entry.name, entry.qualified)]
    kinds = {entry.kind for entry in found}
    if len(kinds) > 1:
        raise PluginError(f'"{name}" is the name of several kinds: {", ".join(f"{k}:{name}" for k in sorted(kinds))}; say which.')
    if not found:
        raise PluginError(f'No component "{name}" is installed{did_you_mean(name, {entry.name for entry in registry().entries()})}')
    return registry().find(found[0].kind, name)
