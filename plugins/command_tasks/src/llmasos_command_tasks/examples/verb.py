"""The verb ``evaluate --task``: its options, and the table of models side by side."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
import typer

from llmasos_command_tasks.examples.evaluation import EvaluationRow, TaskEvaluation, evaluate_task
from llmasos_hookspecs import Command, CommandContext, RequestError
from llmasos_task_kit.concurrency import BatchProgress
from llmasos_task_kit.rows import count_rows

#: In place of a list of models that was not given: the config's own.
_CONFIGURED: Final[list[Any]] = [None]


def make(context: CommandContext) -> Command:
    """The verb with its options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command("evaluate")
    def evaluate(
        models: Annotated[list[str] | None, typer.Argument(help="Models, and last a .jsonl or .csv file with examples.")] = None,
        task: Annotated[str, typer.Option("--task", help="The task; llmasos tasks lists them.")] = "",
        loader: Annotated[str | None, typer.Option("--loader", help="A loader by name; short for --set loader.use=...")] = None,
        config: Annotated[
            Path | None,
            typer.Option("--config", "-c", help="Config file; left out: LLMASOS_CONFIG, or llmasos.toml here, over the user's own."),
        ] = None,
        settings: Annotated[list[str] | None, typer.Option("--set", help="Override one config value: path=value, such as seed=7.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")] = False,
    ) -> None:
        """Measure how well models do a task, on examples that have its inputs and what the answer should be."""
        if not task or not models:
            raise RequestError("Give a .jsonl or .csv file with examples after the models: llmasos evaluate --task NAME data.jsonl.")
        examples = Path(models[-1])
        count_rows(examples)  # a file that cannot be read is told before a model is fetched
        rows: list[EvaluationRow] = []
        for name in models[:-1] or _CONFIGURED:
            with context.model(name, loader=loader, config=config, settings=settings or (), quiet=quiet) as opened:
                opened.prefer_throughput()
                found = opened.task(task)
                with contextlib.nullcontext() if quiet else context.progress(f"{task} by {name or 'the model'}") as bar:
                    done = 0

                    def advance(_: str, now: BatchProgress, bar: Any = bar) -> None:
                        nonlocal done
                        if bar is not None:
                            bar.advance(now.done - done)
                        done = now.done

                    measured = evaluate_task(found, {name or "": opened}, examples, progress=advance).rows
                label = name or str(opened.describe().get("source"))  # which the config names, and is known once the model was used
                rows.extend(attrs.evolve(row, model=label) for row in measured)
        evaluation = TaskEvaluation(task=task, rows=tuple(rows))
        if as_json:
            context.answer({"task": task, "rows": [attrs.asdict(row) for row in rows]}, as_json=True)
            return
        context.table(*evaluation.table())
        for row in rows:
            if row.classification is not None:
                context.answer(None, f"\n{row.model}:\n{row.classification}")

    return typer.main.get_command(app)
