"""``llmasos bench``: how fast compositions serve here."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import attrs
import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_table


def bench(
    models: Annotated[list[str] | None, typer.Argument(help="Models; left out: the config's.", autocompletion=o.known_models)] = None,
    loaders: Annotated[
        list[str] | None,
        typer.Option("--loader", help="A loader to compare; may be given several times.", autocompletion=o.installed("loader")),
    ] = None,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", "-b", min=1, help="Requests at once; may be given several times. 1 and 8 by default.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=8, help="Tokens of each prompt, about.")] = 128,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=2, help="New tokens of each request.")] = 64,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds in which all take turns; medians are shown.")] = 3,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Measure how fast models serve here, each on each loader, taken in turn: first token, prefill and decode."""
    from llmasos.evaluation import measure_throughput

    with contextlib.ExitStack() as opened:
        labels, found = [], []
        for name in models or o.CONFIGURED:
            for loader in loaders or o.CONFIGURED:
                pipeline, model = o.open_pipeline(config, overrides, model=name, loader=loader, quiet=quiet)
                opened.enter_context(pipeline)
                pipeline.load(model.name)
                facts = model.describe()
                labels.append({"model": name or str(facts["source"]), "loader": facts["loader"], "dtype": facts["dtype"]})
                found.append(model)
        measured = measure_throughput(found, batches or [1, 8], prompt_tokens=prompt_tokens, new_tokens=new_tokens, rounds=rounds)
    rows: list[dict[str, Any]] = [
        {**label, **attrs.asdict(figures)} for label, row in zip(labels, measured, strict=True) for figures in row
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("model", "loader", "dtype", "requests", "first token s", "prefill tok/s", "decode tok/s"),
        [
            (
                *(str(row[key]) for key in ("model", "loader", "dtype", "batch")),
                f"{row['ttft']:.3f}",
                f"{row['prefill']:.0f}",
                f"{row['decode']:.1f}",
            )
            for row in rows
        ],
    )
