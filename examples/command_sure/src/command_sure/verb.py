"""The verb itself, made with typer; click works as well."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from llmasos_hookspecs import Command, CommandContext, RequestError


def make(context: CommandContext) -> Command:
    """The verb with its options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command("sure", help="Rate how sure a model is of each word of a text, given the words before it.")
    def rate(
        text: Annotated[str, typer.Argument(help="The text; it must have two words at least.")],
        model: Annotated[str | None, typer.Option("--model", "-m", help="A model; left out: the config's.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    ) -> None:
        head, _, rest = text.strip().partition(" ")
        if not rest:
            raise RequestError(f"{text!r} has one word; give two words at least.")
        with context.model(model) as loaded:
            (score,) = loaded.score(head, [f" {rest}"])
        sure = math.exp(score.mean)
        context.answer(
            {"text": text, "tokens": score.tokens, "logprob": score.logprob, "mean_probability": sure},
            f"{sure:.1%} a token, over {score.tokens} tokens.",
            as_json=as_json,
        )

    return typer.main.get_command(app)
