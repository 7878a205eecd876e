"""Options that several commands share, and the pipeline they describe."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmasos_command_kit.options import (
    ConfigOption as ConfigOption,
    ContinueOption as ContinueOption,
    ImageOption as ImageOption,
    JsonOption as JsonOption,
    LoaderOption as LoaderOption,
    LongConfigOption as LongConfigOption,
    MaxNewTokensOption as MaxNewTokensOption,
    ModelOption as ModelOption,
    NoLogOption as NoLogOption,
    PresetOption as PresetOption,
    QuietOption as QuietOption,
    ResumeOption as ResumeOption,
    SchedulerOption as SchedulerOption,
    SeedOption as SeedOption,
    SetOption as SetOption,
    SystemOption as SystemOption,
    TemperatureOption as TemperatureOption,
    TopKOption as TopKOption,
    TopPOption as TopPOption,
    with_preset,
    with_scheduler,
)
from llmasos_hookspecs.json_object import read_object

if TYPE_CHECKING:
    from llmasos.api.model import LanguageModel
    from llmasos.api.pipeline import Pipeline
    from llmasos_config import Config


MaxLengthOption = Annotated[int | None, typer.Option("--max-length", help="Tokens of prompt and answer together at most.")]
MinPOption = Annotated[float | None, typer.Option("--min-p", help="Keep tokens at least this fraction as likely as the likeliest.")]
RepetitionOption = Annotated[float | None, typer.Option("--repetition-penalty", help="Above 1 makes repeated tokens less likely.")]
StopOption = Annotated[list[str] | None, typer.Option("--stop", help="A text that ends the answer; may be given several times.")]
NOption = Annotated[int | None, typer.Option("--n", min=1, help="This many continuations, which share one prefill.")]
SchemaOption = Annotated[Path | None, typer.Option("--schema", help="A file with a JSON Schema that the answer must satisfy.")]
RegexOption = Annotated[str | None, typer.Option("--regex", help="A regular expression that the answer must match.")]
ChoicesOption = Annotated[list[str] | None, typer.Option("--choices", help="The answers to choose from: a,b,c, or given several times.")]
GrammarOption = Annotated[Path | None, typer.Option("--grammar", help="A file with a Lark grammar that the answer must follow.")]
LogprobsOption = Annotated[
    int | None, typer.Option("--logprobs", min=0, help="Log probability of each token, and of this many alternatives; needs --json.")
]
PromptLookupOption = Annotated[
    int | None, typer.Option("--prompt-lookup", min=0, help="Guess this many tokens a step from earlier text; the answer stays the same.")
]


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
    found, name = read_config(config, overrides, model=model, loader=loader, scheduler=scheduler)
    pipeline = pipeline_of(found, quiet=quiet)
    return pipeline, pipeline.models[name]


def pipeline_of(config: Config, *, quiet: bool = False) -> Pipeline:
    """The pipeline of a config, which shows progress and notes on standard error."""
    from llmasos.api.pipeline import Pipeline
    from llmasos.cli.console import TerminalSink

    return Pipeline(config, sink=TerminalSink(quiet=quiet))


def read_config(
    config: Path | None,
    overrides: list[str] | None,
    *,
    model: str | None = None,
    preset: str | None = None,
    loader: str | None = None,
    scheduler: str | None = None,
) -> tuple[Config, str]:
    """The config that a command's options describe, and the name of the model they mean; arguments as for ``open_pipeline``."""
    from llmasos_config import load_config

    changes = with_scheduler([*(overrides or ()), *([f"loader.use={json.dumps(loader)}"] if loader else ())], scheduler)
    changes = with_preset(changes, preset)
    found = load_config(config, overrides=changes)
    name = found.default_model if model is None else model
    if found.reference_of(name) is None:
        found = load_config(config, overrides=[*changes, f"model.source={json.dumps(name, ensure_ascii=False)}"])
        name = "default"
    return found, name


def names_model(word: str, config: Path | None, overrides: list[str] | None) -> bool:
    """Whether a word names a model: one of the config or the store, an alias, a preset, a reference of an installed source, or a folder or
    file that is there."""
    from llmasos.cli.completion import KnownNames
    from llmasos_config import load_config

    if any(letter.isspace() for letter in word):
        return False
    source, colon, _ = word.partition(":")
    names = KnownNames()
    if word in names.names("model") or (colon and source in names.names("source")):
        return True
    with contextlib.suppress(OSError):  # a word that is too long for a name
        if Path(word).exists():
            return True
    return load_config(config, overrides=overrides or ()).reference_of(word) is not None


def read_file(path: Path, name: str) -> str:
    """An option's file as text. Raises ``RequestError`` where it cannot be read."""
    from llmasos_hookspecs import RequestError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{name} names {path}, which cannot be read as text: {getattr(error, 'strerror', None) or error}.") from error


def constraints(schema: Path | None, regex: str | None, choices: list[str] | None, grammar: Path | None) -> dict[str, Any]:
    """The constraint options as keyword arguments of a generation; core refuses more than one of them."""
    # One --choices with commas is a list; several are taken as they are, so that a choice may hold a comma.
    listed = choices[0].split(",") if choices and len(choices) == 1 else choices
    return given(
        schema=None if schema is None else read_object(read_file(schema, "--schema"), f"The schema in {schema}"),
        regex=regex,
        choices=listed,
        grammar=None if grammar is None else read_file(grammar, "--grammar"),
    )
