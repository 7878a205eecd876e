"""Options that several commands share, and the pipeline they describe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmasos_hookspecs.json_object import read_object

if TYPE_CHECKING:
    from llmasos.api.model import LanguageModel
    from llmasos.api.pipeline import Pipeline
    from llmasos.system.config import Config


def installed(kind: str | None = None) -> Callable[[str], list[str]]:
    """Names for the shell to complete: the installed components of a kind, or of all."""

    def complete(incomplete: str) -> list[str]:
        from llmasos.system.discovery import registry

        return sorted({entry.name for entry in registry().entries(kind) if entry.name.startswith(incomplete)})

    return complete


def known_models(incomplete: str) -> list[str]:
    """Names for the shell to complete: aliases, presets, and what is in the store."""
    from llmasos.system.aliases import Aliases
    from llmasos.system.config.presets import Presets
    from llmasos.system.store import Store

    names = {*Aliases().all(), *Presets().names(), *(model.key for model in Store().models())}
    return sorted(name for name in names if name.startswith(incomplete))


ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Config file; left out: LLMASOS_CONFIG, or llmasos.toml here, over the user's own.")
]
# Verbs that go on with a conversation have -c for that.
LongConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Config file; left out: LLMASOS_CONFIG, or llmasos.toml here, over the user's own.")
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", "-t", help="A preset (llmasos models create): its options, and its model without -m."),
]
SystemOption = Annotated[str | None, typer.Option("--system", "-s", help="What the model is told first.")]
ContinueOption = Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")]
ResumeOption = Annotated[str | None, typer.Option("--resume", "-r", help="Go on with a conversation, by its name or number.")]
NoLogOption = Annotated[bool, typer.Option("--no-log", help="Do not keep the conversation.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override one config value: path=value, such as seed=7.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="A model of the config by name, or any model reference.", autocompletion=known_models)
]
LoaderOption = Annotated[
    str | None, typer.Option("--loader", help="A loader by name; short for --set loader.use=...", autocompletion=installed("loader"))
]
SchedulerOption = Annotated[
    str | None,
    typer.Option("--scheduler", help="A scheduler by name; short for --set scheduler.use=...", autocompletion=installed("scheduler")),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")]
MaxNewTokensOption = Annotated[int | None, typer.Option("--max-new-tokens", "-n", help="New tokens at most.")]
MaxLengthOption = Annotated[int | None, typer.Option("--max-length", help="Tokens of prompt and answer together at most.")]
TemperatureOption = Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")]
TopPOption = Annotated[float | None, typer.Option("--top-p", help="Keep the likeliest tokens that reach this probability together.")]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="Keep this many of the likeliest tokens; 0 keeps all.")]
MinPOption = Annotated[float | None, typer.Option("--min-p", help="Keep tokens at least this fraction as likely as the likeliest.")]
RepetitionOption = Annotated[float | None, typer.Option("--repetition-penalty", help="Above 1 makes repeated tokens less likely.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Makes a sampled text reproducible.")]
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
    from llmasos.system.config import load_config

    changes = list(overrides or [])
    changes += [f"loader.use={json.dumps(loader)}"] if loader else []
    changes += [f"scheduler.use={json.dumps(scheduler)}"] if scheduler else []
    changes += [f"model.preset={json.dumps(preset)}"] if preset else []
    found = load_config(config, overrides=changes)
    name = found.default_model if model is None else model
    if name not in found.models:
        found = load_config(config, overrides=[*changes, f"model.source={json.dumps(name, ensure_ascii=False)}"])
        name = "default"
    return found, name


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
