"""The verbs of the command line. What a verb needs is imported when it runs."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer

from llmasos.cli import accelerate, config, models, plugins, run, serve, task
from llmasos.cli.installed import OpenVerb, Verbs

app = typer.Typer(
    name="llmasos",
    help="LLMasOS: any accelerator, any backend, any scheduler, any task, each swapped by one word of config.",
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        from llmasos import __version__

        typer.echo(f"llmasos {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """LLMasOS: any accelerator, any backend, any scheduler, any task, each swapped by one word of config."""


app.command("run")(run.run)
app.command("task", cls=OpenVerb, context_settings=task.SETTINGS)(task.task)
app.command("tasks")(task.tasks)
app.command("serve")(serve.serve)
app.command("accelerate")(accelerate.accelerate)
app.add_typer(models.app, name="models")
app.add_typer(plugins.app, name="plugins")
app.add_typer(config.app, name="config")


@functools.cache
def command() -> Any:
    """The command that ``app`` describes, made once a process: typer reads the options of all verbs for it, which takes longer than most
    commands that load no model."""
    return typer.main.get_command(app)
