"""The verb ``evaluate``: its options, and what it prints and writes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
import typer

from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_hookspecs import Command, CommandContext, Report, RequestError, results_to_dict
from llmasos_hookspecs.plain_json import dump_json
from llmasos_hookspecs.short_form import read_component
from llmasos_suite_quality.page import render
from llmasos_suite_quality.task_answers import EvaluationRow, TaskEvaluation, evaluate_task
from llmasos_task_kit.concurrency import BatchProgress
from llmasos_task_kit.rows import count_rows

#: In place of a list of models that was not given: the config's own.
_CONFIGURED: Final[list[Any]] = [None]


def make(context: CommandContext) -> Command:
    """The verb with its options."""

    def evaluate(
        models: Annotated[list[str] | None, typer.Argument(help="Models; with --task the last argument is the examples' file.")] = None,
        task: Annotated[str | None, typer.Option("--task", help="Evaluate on a task with examples of your own.")] = None,
        suites: Annotated[
            list[str] | None,
            typer.Option(
                "--suite", help="An installed suite to measure with, its options behind it: NAME:key=value. May be given several times."
            ),
        ] = None,
        output: Annotated[Path | None, typer.Option("--output", "-o", help="A new folder for the report, as JSON and as a page.")] = None,
        base: Annotated[
            str | None,
            typer.Option("--base", help="A model to compare with, in float32; left out: the first of several, or a model's own weights."),
        ] = None,
        corpus: Annotated[Path | None, typer.Option("--corpus", help="A text file to evaluate on.")] = None,
        windows: Annotated[int | None, typer.Option("--windows", min=1, help="Evaluation windows; 40 by default.")] = None,
        length: Annotated[int | None, typer.Option("--length", min=2, help="Tokens of each window; 512 by default.")] = None,
        speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure prefill and decode too.")] = True,
        loader: o.LoaderOption = None,
        config: o.ConfigOption = None,
        settings: o.SetOption = None,
        as_json: o.JsonOption = False,
        quiet: o.QuietOption = False,
    ) -> None:
        """Measure models: perplexity, divergence, size and speed, or with --task how well they do a task; or by installed suites."""
        run: dict[str, Any] = {"loader": loader, "config": config, "settings": settings or (), "quiet": quiet}
        if task is not None:
            if not models:
                raise RequestError("Give a .jsonl or .csv file with examples after the models: llmasos evaluate --task NAME data.jsonl.")
            _show_task(context, _answers(context, task, models[:-1], Path(models[-1]), run), as_json)
            return
        if suites and (windows is not None or length is not None):
            raise RequestError("--windows and --length are not for suites; give a suite its options behind its name: NAME:key=value.")
        asked = [read_component(each, "NAME:count=4") for each in suites or ()] or _usual(windows, length, speed)
        if base is None and len(models or ()) > 1:
            base = (models or [""])[0]
        with contextlib.nullcontext() if output is None else context.new_folder(output) as folder:
            report = context.measure(models or _CONFIGURED, asked, base=base, corpus=corpus, **run)
            facts = _suite_facts(report, base) if suites else _figure_facts(report, base, speed)
            if folder is not None:
                (folder / "report.json").write_text(dump_json(facts, indent=2) + "\n", encoding="utf-8")
                (folder / "report.html").write_text(render(report), encoding="utf-8")
        if as_json:
            context.answer(facts if suites else facts["models"], as_json=True)
        else:
            _show(context, report, quiet)

    return verb("evaluate", evaluate)


def _usual(windows: int | None, length: int | None, speed: bool) -> list[tuple[str, Mapping[str, Any]]]:
    """This package's own suites. What is timed comes before a reference is loaded, which would have threads and memory of its own."""
    given = {key: value for key, value in (("windows", windows), ("length", length)) if value is not None}
    timed = [("speed", {key: value for key, value in given.items() if key == "length"})] if speed else []
    return [("size", {}), *timed, ("quality", given)]


def _figure_facts(report: Report, base: str | None, speed: bool) -> dict[str, Any]:
    """The report as JSON has it: the values of the usual suites."""
    models = {label: {**({} if speed else {"speed": None}), **found.to_dict()} for label, found in report.models.items()}
    windows = [found.results["quality"].facts.get("window") for found in report.models.values()]
    return {"models": models, "base": base, "corpus": report.corpus, "length": min(filter(None, windows), default=None)}


def _suite_facts(report: Report, base: str | None) -> dict[str, Any]:
    """The report as JSON has it: all that any suites say of their figures."""
    return {
        "models": {label: results_to_dict(found.results) for label, found in report.models.items()},
        "backends": {label: found.backend for label, found in report.models.items()},
        "base": base,
        "corpus": report.corpus,
    }


def _show(context: CommandContext, report: Report, quiet: bool) -> None:
    context.table(report.columns, report.rows)
    for section in report.sections:
        context.answer(None, f"\n{section.title}")
        if section.text:
            context.answer(None, section.text)
        if section.columns:
            context.table(section.columns, section.rows)
    for note in () if quiet else report.notes:
        context.note(note)


def _answers(context: CommandContext, task: str, models: Sequence[str], examples: Path, run: Mapping[str, Any]) -> TaskEvaluation:
    count_rows(examples)  # a file that cannot be read is told before a model is fetched
    rows: list[EvaluationRow] = []
    for name in list(models) or _CONFIGURED:
        with context.model(name, **run) as opened:
            opened.prefer_throughput()
            found = opened.task(task)
            with contextlib.nullcontext() if run["quiet"] else context.progress(f"{task} by {name or 'the model'}") as bar:
                done = 0

                def advance(_: str, now: BatchProgress, bar: Any = bar) -> None:
                    nonlocal done
                    if bar is not None:
                        bar.advance(now.done - done)
                    done = now.done

                measured = evaluate_task(found, {name or "": opened}, examples, progress=advance).rows
            label = name or str(opened.describe().get("source"))  # which the config names, and is known once the model was used
            rows.extend(attrs.evolve(row, model=label) for row in measured)
    return TaskEvaluation(task=task, rows=tuple(rows))


def _show_task(context: CommandContext, found: TaskEvaluation, as_json: bool) -> None:
    if as_json:
        context.answer({"task": found.task, "rows": [attrs.asdict(row) for row in found.rows]}, as_json=True)
        return
    context.table(*found.table())
    for row in found.rows:
        if row.classification is not None:
            context.answer(None, f"\n{row.model}:\n{row.classification}")
