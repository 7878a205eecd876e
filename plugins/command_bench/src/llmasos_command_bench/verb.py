"""The verb itself: its options, and the table it prints."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Final

import attrs
import typer

from llmasos_command_bench.throughput import measure_throughput
from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_hookspecs import Command, CommandContext, RequestError

#: In place of a list of models or loaders that was not given: the config's own.
_CONFIGURED: Final[list[Any]] = [None]


def make(context: CommandContext) -> Command:
    """The verb with its options."""

    def bench(
        models: Annotated[list[str] | None, typer.Argument(help="Models; left out: the config's.")] = None,
        loaders: Annotated[list[str] | None, typer.Option("--loader", help="A loader to compare; may be given several times.")] = None,
        batches: Annotated[
            list[int] | None, typer.Option("--batch", "-b", min=1, help="Requests at once; may be given several times. 1 and 8 by default.")
        ] = None,
        prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=8, help="Tokens of each prompt, about.")] = 128,
        new_tokens: Annotated[int, typer.Option("--new-tokens", min=2, help="New tokens of each request.")] = 64,
        rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds in which all take turns; medians are shown.")] = 3,
        config: o.ConfigOption = None,
        settings: o.SetOption = None,
        as_json: o.JsonOption = False,
        quiet: o.QuietOption = False,
    ) -> None:
        """Measure how fast models serve here, each on each loader, taken in turn: first token, prefill and decode."""
        with contextlib.ExitStack() as opened:
            labels, found = [], []
            for name in models or _CONFIGURED:
                for loader in loaders or _CONFIGURED:
                    model = opened.enter_context(context.model(name, loader=loader, config=config, settings=settings or (), quiet=quiet))
                    # Asking for its context loads a model: what cannot be loaded or measured is told before any time is spent.
                    if prompt_tokens + new_tokens > model.context_length:
                        raise RequestError(
                            f"Prompts of {prompt_tokens} tokens and {new_tokens} new ones do not fit the context of "
                            f"{model.context_length} tokens that {name or 'the model'} has; ask for fewer."
                        )
                    facts = model.describe()
                    labels.append({"model": name or str(facts["source"]), "loader": facts["loader"], "dtype": facts["dtype"]})
                    found.append(model)
            measured = measure_throughput(found, batches or [1, 8], prompt_tokens=prompt_tokens, new_tokens=new_tokens, rounds=rounds)
        rows: list[dict[str, Any]] = [
            {**label, **attrs.asdict(figures)} for label, row in zip(labels, measured, strict=True) for figures in row
        ]
        if as_json:
            context.answer(rows, as_json=True)
        else:
            context.table(_COLUMNS, [_cells(row) for row in rows])

    return verb("bench", bench)


_COLUMNS: Final = ("model", "loader", "dtype", "requests", "first token s", "prefill tok/s", "decode tok/s")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        *(str(row[key]) for key in ("model", "loader", "dtype", "batch")),
        f"{row['ttft']:.3f}",
        f"{row['prefill']:.0f}",
        f"{row['decode']:.1f}",
    )
