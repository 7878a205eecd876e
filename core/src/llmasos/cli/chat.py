"""``llmasos chat``: talk with a model."""

from __future__ import annotations

from typing import Annotated

import typer

from llmasos.cli import options as o


def chat(
    message: Annotated[str | None, typer.Argument(help="One message to answer; left out: a conversation at the terminal.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="What the model is told first.")] = None,
    resume: Annotated[str | None, typer.Option("--resume", "-r", help="Go on with a saved conversation.")] = None,
    model: o.ModelOption = None,
    max_new_tokens: o.MaxNewTokensOption = None,
    temperature: o.TemperatureOption = None,
    top_p: o.TopPOption = None,
    top_k: o.TopKOption = None,
    seed: o.SeedOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    loader: o.LoaderOption = None,
    scheduler: o.SchedulerOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Talk with a model. At the terminal, /help lists the commands; Ctrl-C stops a reply, Ctrl-D ends the conversation."""
    from llmasos.cli.conversation import Conversation

    sampling = o.given(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    pipeline, chosen = o.open_pipeline(config, overrides, model=model, loader=loader, scheduler=scheduler, quiet=quiet)
    with pipeline:
        conversation = Conversation(chosen, sampling, system=system)
        if resume is not None:
            conversation.load(resume)
        if message is not None:
            conversation.answer_once(message, as_json=as_json)
        else:
            conversation.talk()
