"""``llmasos plugins``: what is installed, and what each component takes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_note, print_result, print_table
from llmasos.cli.installed import Group
from llmasos_hookspecs import KINDS
from llmasos_hookspecs.nearest import listed

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
    from llmasos_options import json_schema, render_help

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
