"""``llmasos config``: check and show the config that holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_error, print_json, print_note, print_result, print_table
from llmasos.cli.installed import Group

app = typer.Typer(help="The config: check, show, schema.", cls=Group, no_args_is_help=True)


@app.command("check")
def check(config: o.ConfigOption = None, overrides: o.SetOption = None, as_json: o.JsonOption = False) -> int:
    """Check the config against the installed plugins; every problem is told."""
    from llmasos.api.checking import config_problems

    problems = config_problems(config, overrides or ())
    if as_json:
        print_json({"problems": [{"path": getattr(each, "path", ""), "message": str(each)} for each in problems]})
    elif problems:
        for problem in problems:
            print_error(str(problem))
    else:
        print_note("The config is sound.")
    return 2 if problems else 0


@app.command("show")
def show(
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    origin: Annotated[bool, typer.Option("--origin", help="Show where each value was set.")] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Show the config that holds here, defaults included."""
    from llmasos_config import load_config, to_toml

    found = load_config(config, overrides=overrides or ())
    mapping = found.to_mapping()
    if origin:
        rows = [[path, _in_toml(value), found.origin(path)] for path, value in _flat(mapping, "")]
        if as_json:
            print_json([{"path": path, "value": value, "origin": found.origin(path)} for path, value in _flat(mapping, "")])
        else:
            print_table(["value", "is", "set in"], rows)
    elif as_json:
        print_json(mapping)
    else:
        print_result(to_toml(mapping).rstrip("\n"))


@app.command("schema")
def schema(as_json: o.JsonOption = False) -> None:
    """Print the JSON Schema of the config, with the options of every installed plugin."""
    from llmasos.system.config_schema import config_schema
    from llmasos.system.discovery import registry

    print_json(config_schema(registry()))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}[{index}]")
    else:
        yield path, value


def _in_toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
