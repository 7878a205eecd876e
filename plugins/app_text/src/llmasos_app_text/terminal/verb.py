"""The verb ``chat``: its options, and the model that they describe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llmasos_hookspecs import Command, CommandContext, RequestError


def make(context: CommandContext) -> Command:
    """The verb with its options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command("chat")
    def chat(
        message: Annotated[str | None, typer.Argument(help="One message to answer; left out: a conversation at the terminal.")] = None,
        system: Annotated[str | None, typer.Option("--system", "-s", help="What the model is told first.")] = None,
        continued: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")] = False,
        resume: Annotated[str | None, typer.Option("--resume", "-r", help="Go on with a conversation, by its name or number.")] = None,
        no_log: Annotated[bool, typer.Option("--no-log", help="Do not keep the conversation, unless it is given a name.")] = False,
        model: Annotated[str | None, typer.Option("--model", "-m", help="A model of the config by name, or any model reference.")] = None,
        preset: Annotated[
            str | None,
            typer.Option("--preset", "-t", help="A preset (llmasos models create): its options, and its model without -m."),
        ] = None,
        max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", "-n", help="New tokens at most.")] = None,
        temperature: Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")] = None,
        top_p: Annotated[
            float | None, typer.Option("--top-p", help="Keep the likeliest tokens that reach this probability together.")
        ] = None,
        top_k: Annotated[int | None, typer.Option("--top-k", help="Keep this many of the likeliest tokens; 0 keeps all.")] = None,
        seed: Annotated[int | None, typer.Option("--seed", help="Makes a sampled text reproducible.")] = None,
        config: Annotated[
            Path | None,
            typer.Option("--config", help="Config file; left out: LLMASOS_CONFIG, or llmasos.toml here, over the user's own."),
        ] = None,
        settings: Annotated[list[str] | None, typer.Option("--set", help="Override one config value: path=value, such as seed=7.")] = None,
        loader: Annotated[str | None, typer.Option("--loader", help="A loader by name; short for --set loader.use=...")] = None,
        scheduler: Annotated[str | None, typer.Option("--scheduler", help="A scheduler by name; short for --set scheduler.use=...")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")] = False,
    ) -> None:
        """Talk with a model. At the terminal, /help lists the commands; Ctrl-C stops a reply, Ctrl-D ends the conversation."""
        from llmasos_app_text.terminal.conversation import Conversation

        if continued and resume is not None:
            raise RequestError("--continue and --resume name two conversations; leave one of them out.")
        given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
        sampling = {name: value for name, value in given.items() if value is not None}
        changes = [*(settings or ()), *([f"scheduler.use={json.dumps(scheduler)}"] if scheduler else ())]
        changes += [f"model.preset={json.dumps(preset)}"] if preset else []
        with context.model(model, loader=loader, config=config, settings=changes, quiet=quiet) as opened:
            conversation = Conversation(context, opened, sampling, system=system, keep=not no_log)
            if resume is not None:
                conversation.load(resume)
            elif continued:
                conversation.load_last()
            if message is not None:
                conversation.answer_once(message, as_json=as_json)
            else:
                conversation.talk()

    return typer.main.get_command(app)
