"""The verb ``task --batch``: its options, and what it says of a batch that is done."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from llmasos_command_batch.run import BatchReport, run_batch
from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_hookspecs import Command, CommandContext, RequestError
from llmasos_task_kit.concurrency import DEFAULT_WORKERS, BatchProgress
from llmasos_task_kit.rows import count_rows

_OTHERS = {"allow_extra_args": True, "ignore_unknown_options": True}


def make(context: CommandContext) -> Command:
    """The verb with its options."""

    def task(
        given: typer.Context,
        name: Annotated[str, typer.Argument(help="The task; llmasos tasks lists them.")],
        batch: Annotated[Path | None, typer.Option("--batch", help="A .jsonl or .csv file: run the task on each row.")] = None,
        output: Annotated[
            Path | None, typer.Option("--output", "-o", help="The .jsonl file for the answers; a run that was stopped goes on.")
        ] = None,
        workers: Annotated[int, typer.Option("--workers", min=1, help="Rows on their way at once.")] = DEFAULT_WORKERS,
        model: o.ModelOption = None,
        config: o.ConfigOption = None,
        settings: o.SetOption = None,
        loader: o.LoaderOption = None,
        scheduler: o.SchedulerOption = None,
        as_json: o.JsonOption = False,
        quiet: o.QuietOption = False,
    ) -> int:
        """Run a task on each row of a file. The task's inputs that are the same for all rows are given as --NAME VALUE; a row's own win."""
        if batch is None or output is None:
            raise RequestError("A batch needs both: --batch rows.jsonl with the inputs, and --output answers.jsonl for the answers.")
        total = count_rows(batch)  # a file that cannot be read is told before a model is fetched
        changes = o.with_scheduler(settings, scheduler)
        with context.model(model, loader=loader, config=config, settings=changes, quiet=quiet) as opened, contextlib.ExitStack() as shown:
            found = opened.task(name)
            common = found.read_words(given.args)
            opened.prefer_throughput()
            bar = None if quiet else shown.enter_context(context.progress(f"{name} on {batch.name}", total))
            seen = 0

            def advance(now: BatchProgress) -> None:
                nonlocal seen
                if bar is not None:
                    bar.advance(now.done + now.skipped - seen)
                seen = now.done + now.skipped

            report = run_batch(found, opened, batch, output, common=common, total=total, workers=workers, progress=advance)
        if as_json:
            context.answer(_figures(report), as_json=True)
        elif not quiet:
            context.note(_sentence(report))
        return 1 if report.errors else 0

    return verb("task", task, context_settings=_OTHERS)


def _figures(report: BatchReport) -> dict[str, Any]:
    now = report.progress
    figures = {"rows": report.rows, "errors": report.errors, "done": now.done, "skipped": now.skipped}
    return {"path": str(report.path), **figures, "seconds": now.seconds, "rows_per_second": now.rows_per_second}


def _sentence(report: BatchReport) -> str:
    now = report.progress
    known = f", {now.skipped} were there already" if now.skipped else ""
    refused = f", {report.errors} were refused" if report.errors else ""
    return f"{now.done} rows in {now.seconds:.1f} s, {now.rows_per_second:.2f} rows/s{known}{refused}; see {report.path}."
