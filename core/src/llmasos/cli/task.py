"""``llmasos task``: run an installed task; its options are made from its inputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_result, print_table

if TYPE_CHECKING:
    from llmasos_hookspecs import Task


def task(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The task; llmasos tasks lists them.")] = None,
    model: o.ModelOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    loader: o.LoaderOption = None,
    scheduler: o.SchedulerOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    show_help: Annotated[bool, typer.Option("--help", help="Show this, and with a task its inputs.")] = False,
) -> None:
    """Run a task: llmasos task NAME --input value ... A value @FILE is a file's text, and - is standard input."""
    if name is None:
        print_result(context.get_help())
        return
    pipeline, chosen = o.open_pipeline(config, overrides, model=model, loader=loader, scheduler=scheduler, quiet=quiet)
    with pipeline:
        found = pipeline.task(name)
        if show_help:
            print_result(_help(name, found))
            return
        inputs = read_inputs(found.inputs, context.args)
        if not as_json and hasattr(found, "stream"):
            for piece in pipeline.stream(name, model=chosen.name, **inputs):
                print_result(piece, end="")
            print_result()
            return
        from llmasos.system.options import unstructure

        answer = unstructure(pipeline.run(name, model=chosen.name, **inputs))
        if as_json or not isinstance(answer, dict):
            print_json(answer)
            return
        for key, value in answer.items():
            print_result(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


def tasks(as_json: o.JsonOption = False) -> None:
    """List the installed tasks with what they do."""
    from llmasos.system.components import load_component
    from llmasos.system.discovery import registry
    from llmasos_hookspecs import PluginError

    rows = []
    for entry in registry().entries("task"):
        try:
            component = load_component(entry).component
            rows.append([entry.name, component.summary, "; ".join(component.examples), entry.distribution])
        except PluginError as error:
            rows.append([entry.name, str(error), "", entry.distribution])
    columns = ["task", "summary", "example", "distribution"]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)


def read_inputs(cls: type, arguments: list[str]) -> dict[str, Any]:
    """Command-line words ``--name value``, ``--name=value`` or ``--flag`` as inputs of an attrs class.

    Raises:
        RequestError: a word is no option, or an option lacks its value.
    """
    from llmasos.system.nearest import did_you_mean
    from llmasos.system.options.fields import fields_of
    from llmasos_hookspecs import RequestError

    fields = {field.key: field for field in fields_of(cls)}
    words = list(arguments)
    inputs: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if not word.startswith("--") or key not in fields:
            raise RequestError(f'"{word}" is no input of the task{did_you_mean(key, fields)}')
        field = fields[key]
        if not equals:
            if field.type is bool and (not words or words[0].startswith("--")):
                value = "true"
            elif not words:
                raise RequestError(f"--{key} lacks its value; it must be {field.allowed}.")
            else:
                value = words.pop(0)
        read = _value(value, field.type)
        if key in inputs and isinstance(inputs[key], list):
            inputs[key].extend(read if isinstance(read, list) else [read])
        else:
            inputs[key] = read
    return inputs


def _value(text: str, kind: Any) -> Any:
    """A value as the field's type wants it: text stays text, everything else is read as JSON where it is JSON."""
    from llmasos_hookspecs import RequestError

    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"The file {text[1:]} cannot be read as text: {getattr(error, 'strerror', None) or error}.") from error
    if kind is str:
        return text
    try:
        return json.loads(text)
    except ValueError:
        # A list of texts is most easily given one text at a time.
        return [text] if getattr(kind, "__origin__", None) in (list, tuple) else text


def _help(name: str, found: Task) -> str:
    from llmasos.system.options import render_help

    summary = (type(found).__doc__ or "").strip().partition("\n")[0]
    return f"llmasos task {name}: {summary}\n\nInputs, each as --NAME VALUE:\n{render_help(found.inputs)}"
