"""``llmasos accelerate`` and ``llmasos evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_note, print_result, print_table
from llmasos_hookspecs import RequestError

CorpusOption = Annotated[Path | None, typer.Option("--corpus", help="A text file to calibrate and evaluate on.")]
WindowsOption = Annotated[int | None, typer.Option("--windows", min=1, help="Evaluation windows; 40 by default.")]
LengthOption = Annotated[int | None, typer.Option("--length", min=2, help="Tokens of each window; 512 by default.")]


def accelerate(
    model: Annotated[str | None, typer.Argument(help="The model; left out: the config's.")] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", "-s", help="A stage, its options behind it: NAME:bits=4,group=32. In order; left out: the config's."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A new folder for the result and its report.")] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Measure size, quality and speed of every stage.")] = True,
    corpus: CorpusOption = None,
    windows: WindowsOption = None,
    length: LengthOption = None,
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
    from llmasos.evaluation import Corpus

    pipeline, chosen = o.open_pipeline(config, overrides, model=model, loader=loader, quiet=quiet)
    with pipeline:
        found = [_stage(text, f"accelerate[{place}]") for place, text in enumerate(stages)] if stages else None
        if not found and not pipeline.config.models[chosen.name].accelerate:
            raise RequestError("There is no stage to run; give --stage NAME:bits=8, say, or [[accelerate]] tables in the config.")
        report = pipeline.accelerate(
            found,
            model=chosen.name,
            output=output,
            measure=measure,
            corpus=None if corpus is None else Corpus.from_file(corpus),
            allow_low_coverage=allow_low_coverage,
            **o.given(windows=windows, length=length),
        )
    if as_json:
        print_json(report.to_dict())
        return
    print_table(report.columns(), report.rows())
    for note in report.notes:
        print_note(note)
    print_result(str(report.path))


def evaluate(
    models: Annotated[list[str] | None, typer.Argument(help="Models; left out: the config's.")] = None,
    suites: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            help="An installed suite to measure with, its options behind it: NAME:key=value. May be given several times.",
            autocompletion=o.installed("suite"),
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A new folder for the report, as JSON and as a page.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="A model whose predictions are compared with; left out: its own, in float32.")
    ] = None,
    corpus: CorpusOption = None,
    windows: WindowsOption = None,
    length: LengthOption = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure prefill and decode too.")] = True,
    loader: o.LoaderOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Measure models: perplexity, divergence, size and speed; or by installed suites."""
    named = list(models or [])
    from llmasos.acceleration import EvaluationReport
    from llmasos.acceleration.export import check_output, export_evaluation
    from llmasos.evaluation import Corpus

    for problem in check_output(output):
        raise RequestError(problem)
    text = Corpus.default() if corpus is None else Corpus.from_file(corpus)
    if suites:
        if windows is not None or length is not None:
            raise RequestError("--windows and --length are not for suites; give a suite its options behind its name: NAME:key=value.")
        asked = [_stage(each, f"suites[{place}]", "NAME:count=4") for place, each in enumerate(suites)]
        _evaluate_suites(asked, named, text, base, output, loader, config, overrides, as_json, quiet)
        return
    measured = {}
    for name in named or o.CONFIGURED:
        pipeline, chosen = o.open_pipeline(config, overrides, model=name, loader=loader, quiet=quiet)
        with pipeline:
            label = name or pipeline.config.models[chosen.name].source
            measured[label] = pipeline.measure(model=chosen.name, base=base, corpus=text, windows=windows, length=length, speed=speed)
    report = EvaluationReport(models=measured, base=base, corpus=text.name, length=min(found.quality.window for found in measured.values()))
    if output is not None:
        export_evaluation(output, report)
    if as_json:
        print_json({label: found.to_dict() for label, found in measured.items()})
    else:
        print_table(report.columns(), report.rows())


def _evaluate_suites(
    asked: list[Any],
    models: list[str],
    corpus: Any,
    base: str | None,
    output: Path | None,
    loader: str | None,
    config: Path | None,
    overrides: list[str] | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from llmasos.acceleration.export import export_suites
    from llmasos.acceleration.report import SuiteReport

    made: Any = None
    measured, backends = {}, {}
    for name in models or o.CONFIGURED:
        pipeline, chosen = o.open_pipeline(config, overrides, model=name, loader=loader, quiet=quiet)
        with pipeline:
            made = made or pipeline.suites(asked)
            label = name or pipeline.config.models[chosen.name].source
            measured[label] = pipeline.measure_suites(made, model=chosen.name, base=base, corpus=corpus, label=label)
            backends[label] = pipeline.backend_label(chosen.name)
    sections = {suite.name: suite.sections({label: found[suite.name] for label, found in measured.items()}) for suite in made}
    report = SuiteReport(models=measured, sections=sections, backends=backends, base=base, corpus=corpus.name)
    if output is not None:
        export_suites(output, report)
    if as_json:
        print_json(report.to_dict())
        return
    print_table(report.columns(), report.rows())
    for section in (each for found in sections.values() for each in found):
        print_result(f"\n{section.title}")
        if section.text:
            print_result(section.text)
        if section.columns:
            print_table(section.columns, section.rows)
    for note in report.notes:
        print_note(note)


def _stage(text: str, path: str, example: str = "NAME:bits=4,group=32") -> Any:
    """``quant:bits=4,group=32`` as config of the component at ``path``; values are JSON, or text."""
    from llmasos.system.config import ComponentConfig

    use, colon, rest = text.partition(":")
    if colon and "=" not in rest.partition(",")[0]:
        distribution, (use, _, rest) = use, rest.partition(":")
        use = f"{distribution}:{use}"
    options = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise RequestError(f'"{text}" has "{part}", and options have the form name=value, as in {example}.')
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = value
    return ComponentConfig(use, options, path)
