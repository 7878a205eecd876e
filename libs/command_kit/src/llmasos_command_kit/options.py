"""Options that several verbs have: called, explained and completed alike everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from llmasos_command_kit.completion import names_of

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Config file; left out: LLMASOS_CONFIG, or llmasos.toml here, over the user's own.")
]
# Verbs that go on with a conversation have -c for that.
LongConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Config file; left out: LLMASOS_CONFIG, or llmasos.toml here, over the user's own.")
]
SystemOption = Annotated[str | None, typer.Option("--system", "-s", help="What the model is told first.")]
ContinueOption = Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")]
ResumeOption = Annotated[str | None, typer.Option("--resume", "-r", help="Go on with a conversation, by its name or number.")]
ImageOption = Annotated[
    list[Path] | None, typer.Option("--image", help="An image that the model is shown with the message: a PNG, JPEG, WebP or GIF file.")
]
NoLogOption = Annotated[bool, typer.Option("--no-log", help="Do not keep the conversation.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override one config value: path=value, such as seed=7.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A model of the config by name, or any model reference.", autocompletion=names_of("model")),
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", "-t", help="A preset (llmasos models create): its options, and its model without -m."),
]
LoaderOption = Annotated[
    str | None, typer.Option("--loader", help="A loader by name; short for --set loader.use=...", autocompletion=names_of("loader"))
]
SchedulerOption = Annotated[
    str | None,
    typer.Option("--scheduler", help="A scheduler by name; short for --set scheduler.use=...", autocompletion=names_of("scheduler")),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")]
MaxNewTokensOption = Annotated[int | None, typer.Option("--max-new-tokens", "-n", help="New tokens at most.")]
TemperatureOption = Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")]
TopPOption = Annotated[float | None, typer.Option("--top-p", help="Keep the likeliest tokens that reach this probability together.")]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="Keep this many of the likeliest tokens; 0 keeps all.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Makes a sampled text reproducible.")]


def with_scheduler(settings: Iterable[str] | None, scheduler: str | None) -> list[str]:
    """What ``--set`` and ``--scheduler`` say together, as ``--set`` alone would."""
    return [*(settings or ()), *([f"scheduler.use={json.dumps(scheduler)}"] if scheduler else ())]


def with_preset(settings: Iterable[str] | None, preset: str | None) -> list[str]:
    """What ``--set`` and ``--preset`` say together, as ``--set`` alone would."""
    return [*(settings or ()), *([f"model.preset={json.dumps(preset)}"] if preset else ())]
