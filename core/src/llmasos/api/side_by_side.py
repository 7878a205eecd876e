"""Models measured, or asked a task, one after the other, for the verbs that compare them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from llmasos.acceleration.corpus import Corpus
from llmasos.acceleration.suites import NamedSuite, joint_notes, joint_sections
from llmasos.api.model import LanguageModel
from llmasos.api.pipeline import Pipeline
from llmasos.api.tasks.rows import InputRow, read_rows
from llmasos.api.tasks.run import run_rows
from llmasos.system.config import ComponentConfig
from llmasos.system.context import ProgressSink
from llmasos_hookspecs import Measurement, Report, RequestError, Task, TaskRow, TaskRun, figure_table

#: Opens the pipeline for a reference, and gives it with the model that is meant; None: the config's default model.
Open = Callable[[str | None], tuple[Pipeline, LanguageModel]]


def measure_side_by_side(
    references: Sequence[str | None], open_model: Open, suites: Sequence[ComponentConfig], *, base: str | None, corpus: Path | None
) -> Report:
    """What suites measure of models: see ``llmasos_hookspecs.CommandContext.measure``."""
    text = Corpus.default() if corpus is None else Corpus.from_file(corpus)
    made: tuple[NamedSuite, ...] = ()
    models: dict[str, Measurement] = {}
    for reference in references:
        pipeline, chosen = open_model(reference)
        with pipeline:
            made = made or pipeline.suites(suites)
            label = _label(reference, pipeline, chosen)
            models[label] = pipeline.measure(made, model=chosen.name, base=base, corpus=text, label=label)
    results = {label: found.results for label, found in models.items()}
    columns, rows = figure_table(results)
    return Report(
        title="Evaluation report",
        text=f"Measured on the evaluation part of {text.name}, against {base or 'the weights of each model itself'} in float32. "
        "± is one standard error.",
        columns=columns,
        rows=rows,
        models=models,
        corpus=text.name,
        sections=joint_sections(made, results),
        notes=joint_notes(made, results),
    )


def run_side_by_side(
    task: str,
    file: Path,
    references: Sequence[str | None],
    choose: Callable[[Task, TaskRow], Collection[str]],
    open_model: Open,
    sink: ProgressSink,
) -> list[TaskRun]:
    """What a task answers with each model: see ``llmasos_hookspecs.CommandContext.run_task``."""
    rows: list[InputRow] = list(read_rows(file))
    if not rows:
        raise RequestError(f"{file} has no rows.")
    runs = []
    for reference in references:
        pipeline, chosen = open_model(reference)
        with pipeline, sink.progress(f"{task} by {reference or chosen.name}", len(rows), "rows") as progress:
            pipeline.prefer_throughput(model=chosen.name)
            label = _label(reference, pipeline, chosen)
            runs.append(run_rows(pipeline.task(task), chosen, rows, choose, label=label, progress=progress))
    return runs


def _label(reference: str | None, pipeline: Pipeline, model: LanguageModel) -> str:
    return reference or pipeline.config.models[model.name].source
