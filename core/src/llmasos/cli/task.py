"""``llmasos task``: run an installed task; its options are made from its inputs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final

import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_result, print_table
from llmasos.cli.task_inputs import from_words
from llmasos_command_kit.completion import names_of

if TYPE_CHECKING:
    from llmasos_hookspecs import Task

#: What follows the task's name are its inputs, whose names only the task knows.
SETTINGS: Final = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def task(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The task; llmasos tasks lists them.", autocompletion=names_of("task"))] = None,
    model: o.ModelOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    loader: o.LoaderOption = None,
    scheduler: o.SchedulerOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    show_help: Annotated[bool, typer.Option("--help", help="Show this, and with a task its inputs.")] = False,
) -> int:
    """Run a task: llmasos task NAME --input value ... A value @FILE is a file's text, and - is standard input."""
    if name is None:
        print_result(context.get_help())
        return 0
    pipeline, chosen = o.open_pipeline(config, overrides, model=model, loader=loader, scheduler=scheduler, quiet=quiet)
    with pipeline:
        found = pipeline.task(name)
        if show_help:
            print_result(_help(name, found))
            return 0
        inputs = from_words(found.inputs, context.args)
        if not as_json and hasattr(found, "stream"):
            for piece in pipeline.stream(name, model=chosen.name, **inputs):
                print_result(piece, end="")
            print_result()
            return 0
        from llmasos_options import unstructure

        answer = unstructure(pipeline.run(name, model=chosen.name, **inputs))
        if as_json or not isinstance(answer, dict):
            print_json(answer)
            return 0
        for key, value in answer.items():
            print_result(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return 0


def tasks(as_json: o.JsonOption = False) -> None:
    """List the installed tasks with what they do; none is imported."""
    from llmasos.system.descriptions import described
    from llmasos.system.discovery import registry

    rows = [
        [found.entry.name, found.problem or found.summary, "; ".join(found.examples), found.entry.distribution]
        for found in described(registry().entries("task"))
    ]
    columns = ["task", "summary", "example", "distribution"]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)


def _help(name: str, found: Task) -> str:
    from llmasos_options import render_help

    summary = (type(found).__doc__ or "").strip().partition("\n")[0]
    return f"llmasos task {name}: {summary}\n\nInputs, each as --NAME VALUE:\n{render_help(found.inputs)}"
