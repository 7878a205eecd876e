"""Options that several commands share, and the pipeline they describe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmasos.model import LanguageModel
    from llmasos.pipeline import Pipeline

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Config file; left out: LLMASOS_CONFIG, or llmasos.toml here, over the user's own.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override one config value: path=value, such as scheduler.use=fair.")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="A model of the config by name, or any model reference.")]
LoaderOption = Annotated[str | None, typer.Option("--loader", help="Loader, such as onnx; short for --set loader.use=...")]
SchedulerOption = Annotated[str | None, typer.Option("--scheduler", help="Scheduler, such as fair; short for --set scheduler.use=...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")]
MaxNewTokensOption = Annotated[int | None, typer.Option("--max-new-tokens", "-n", help="New tokens at most.")]
MaxLengthOption = Annotated[int | None, typer.Option("--max-length", help="Tokens of prompt and answer together at most.")]
TemperatureOption = Annotated[float | None, typer.Option("--temperature", "-t", help="0 is greedy.")]
TopPOption = Annotated[float | None, typer.Option("--top-p", help="Keep the likeliest tokens that reach this probability together.")]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="Keep this many of the likeliest tokens; 0 keeps all.")]
MinPOption = Annotated[float | None, typer.Option("--min-p", help="Keep tokens at least this fraction as likely as the likeliest.")]
RepetitionOption = Annotated[float | None, typer.Option("--repetition-penalty", help="Above 1 makes repeated tokens less likely.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Makes a sampled text reproducible.")]
StopOption = Annotated[list[str] | None, typer.Option("--stop", help="A text that ends the answer; may be given several times.")]


def given(**values: Any) -> dict[str, Any]:
    """The options that were given; the others are left to their defaults."""
    return {name: value for name, value in values.items() if value is not None and value != []}


def open_pipeline(
    config: Path | None,
    overrides: list[str] | None,
    *,
    model: str | None = None,
    loader: str | None = None,
    scheduler: str | None = None,
    quiet: bool = False,
) -> tuple[Pipeline, LanguageModel]:
    """The pipeline that a command's options describe, and the model they mean.

    ``model`` is the name of one of the config's models, or else a reference that takes the place of the default model's.
    """
    from llmasos.cli.console import TerminalSink
    from llmasos.pipeline import Pipeline
    from llmasos.system.config import load_config

    changes = list(overrides or [])
    changes += [f"loader.use={json.dumps(loader)}"] if loader else []
    changes += [f"scheduler.use={json.dumps(scheduler)}"] if scheduler else []
    found = load_config(config, overrides=changes)
    name = found.default_model if model is None else model
    if name not in found.models:
        found = load_config(config, overrides=[*changes, f"model.source={json.dumps(name, ensure_ascii=False)}"])
        name = "default"
    pipeline = Pipeline(found, sink=TerminalSink(quiet=quiet))
    return pipeline, pipeline.models[name]
