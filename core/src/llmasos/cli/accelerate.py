"""``llmasos accelerate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_note, print_result, print_table
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.short_form import read_component


def accelerate(
    model: Annotated[str | None, typer.Argument(help="The model; left out: the config's.")] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", "-s", help="A stage, its options behind it: NAME:bits=4,group=32. In order; left out: the config's."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A new folder for the result and its report.")] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Have suites measure what every stage costs.")] = True,
    corpus: Annotated[Path | None, typer.Option("--corpus", help="A text file to calibrate and evaluate on.")] = None,
    windows: Annotated[int | None, typer.Option("--windows", min=1, help="Evaluation windows; 40 by default.")] = None,
    length: Annotated[int | None, typer.Option("--length", min=2, help="Tokens of each window; 512 by default.")] = None,
    allow_low_coverage: Annotated[
        bool, typer.Option("--allow-low-coverage", help="Accept a stage that changed less than 90 % of the weights that it could.")
    ] = False,
    loader: o.LoaderOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Run accelerator stages over a model, and show what each cost and brought."""
    from llmasos.acceleration.corpus import Corpus
    from llmasos_config import ComponentConfig

    pipeline, chosen = o.open_pipeline(config, overrides, model=model, loader=loader, quiet=quiet)
    with pipeline:
        found = [
            ComponentConfig(*read_component(text, "NAME:bits=4,group=32"), f"accelerate[{index}]")
            for index, text in enumerate(stages or ())
        ]
        if not found and not pipeline.config.models[pipeline.host_of(chosen.name).name].accelerate:
            raise RequestError("There is no stage to run; give --stage NAME:bits=8, say, or [[accelerate]] tables in the config.")
        report = pipeline.accelerate(
            found or None,
            model=chosen.name,
            output=output,
            measure=measure,
            corpus=None if corpus is None else Corpus.from_file(corpus),
            allow_low_coverage=allow_low_coverage,
            windows=windows,
            length=length,
        )
    if as_json:
        print_json(report.to_dict())
        return
    print_table(report.columns(), report.rows())
    for note in report.notes:
        print_note(note)
    print_result(str(report.path))
