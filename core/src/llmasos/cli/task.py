"""``llmasos task``: run an installed task; its options are made from its inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmasos.cli import options as o
from llmasos.cli.console import TerminalSink, print_json, print_note, print_result, print_table
from llmasos.cli.run import read_text

if TYPE_CHECKING:
    from llmasos.api.model import LanguageModel
    from llmasos_hookspecs import Task


def task(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The task; llmasos tasks lists them.", autocompletion=o.installed("task"))] = None,
    model: o.ModelOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    loader: o.LoaderOption = None,
    scheduler: o.SchedulerOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    batch: Annotated[Path | None, typer.Option("--batch", help="A .jsonl or .csv file: run the task on each row.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --batch: the .jsonl file for the answers; a run that was stopped goes on.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="With --batch: rows on their way at once.")] = None,
    show_help: Annotated[bool, typer.Option("--help", help="Show this, and with a task its inputs.")] = False,
) -> int:
    """Run a task: llmasos task NAME --input value ... A value @FILE is a file's text, and - is standard input."""
    if name is None:
        print_result(context.get_help())
        return 0
    total = _checked_batch(batch, output)
    pipeline, chosen = o.open_pipeline(config, overrides, model=model, loader=loader, scheduler=scheduler, quiet=quiet)
    with pipeline:
        found = pipeline.task(name)
        if show_help:
            print_result(_help(name, found))
            return 0
        inputs = read_inputs(found.inputs, context.args)
        if batch is not None and output is not None:
            pipeline.prefer_throughput(model=chosen.name)
            return _run_batch(name, found, chosen, batch, output, inputs, workers, total, as_json=as_json, quiet=quiet)
        if not as_json and hasattr(found, "stream"):
            for piece in pipeline.stream(name, model=chosen.name, **inputs):
                print_result(piece, end="")
            print_result()
            return 0
        from llmasos.system.options import unstructure

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


def _checked_batch(rows: Path | None, output: Path | None) -> int:
    """How many rows a batch has, before a model is fetched for it; 0 where no batch is asked for."""
    from llmasos.api.tasks.rows import count_rows
    from llmasos_hookspecs import RequestError

    if rows is None and output is None:
        return 0
    if rows is None or output is None:
        raise RequestError("A batch needs both: --batch rows.jsonl with the inputs, and --output answers.jsonl for the answers.")
    return count_rows(rows)


def _run_batch(
    name: str,
    task: Task,
    model: LanguageModel,
    rows: Path,
    output: Path,
    common: dict[str, Any],
    workers: int | None,
    total: int,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    """A row's own inputs win over the ones of the command line. 1 where rows were refused."""
    from llmasos.api.tasks import BatchProgress, run_batch

    with TerminalSink(quiet=quiet).progress(f"{name} on {rows.name}", total, "") as bar:
        seen = 0

        def advance(now: BatchProgress) -> None:
            nonlocal seen
            bar.advance(now.done + now.skipped - seen)
            seen = now.done + now.skipped

        report = run_batch(task, model, rows, output, common=common, total=total, progress=advance, **o.given(workers=workers))
    now = report.progress
    if as_json:
        figures = {"rows": report.rows, "errors": report.errors, "done": now.done, "skipped": now.skipped}
        print_json({"path": str(report.path), **figures, "seconds": now.seconds, "rows_per_second": now.rows_per_second})
    elif not quiet:
        known = f", {now.skipped} were there already" if now.skipped else ""
        refused = f", {report.errors} were refused" if report.errors else ""
        print_note(f"{now.done} rows in {now.seconds:.1f} s, {now.rows_per_second:.2f} rows/s{known}{refused}; see {report.path}.")
    return 1 if report.errors else 0


def read_inputs(cls: type, arguments: list[str]) -> dict[str, Any]:
    """Command-line words ``--name value``, ``--name=value`` or ``--flag`` as inputs of an attrs class.

    Raises:
        RequestError: a word is no option, or an option lacks its value.
    """
    from llmasos.system.options.fields import fields_of
    from llmasos_hookspecs import RequestError
    from llmasos_hookspecs.nearest import did_you_mean

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
    """A word's value, from a file or standard input where it says so, as the field's type wants it."""
    from llmasos.api.tasks.inputs import from_text
    from llmasos_hookspecs import RequestError

    if text == "-":
        text = read_text(None)
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"The file {text[1:]} cannot be read as text: {getattr(error, 'strerror', None) or error}.") from error
    return from_text(text, kind)


def _help(name: str, found: Task) -> str:
    from llmasos.system.options import render_help

    summary = (type(found).__doc__ or "").strip().partition("\n")[0]
    return f"llmasos task {name}: {summary}\n\nInputs, each as --NAME VALUE:\n{render_help(found.inputs)}"
