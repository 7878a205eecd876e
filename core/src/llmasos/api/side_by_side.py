"""Models measured one after the other, for the verbs that compare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmasos.acceleration.corpus import Corpus
from llmasos.acceleration.suites import NamedSuite, joint_notes, joint_sections
from llmasos.api.model import LanguageModel
from llmasos.api.pipeline import Pipeline
from llmasos_config import ComponentConfig
from llmasos_hookspecs import Measurement, Report, figure_table

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


def _label(reference: str | None, pipeline: Pipeline, model: LanguageModel) -> str:
    return reference or pipeline.config.models[model.name].source
