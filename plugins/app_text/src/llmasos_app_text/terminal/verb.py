"""The verb ``chat``: its options, and the model that they describe."""

from __future__ import annotations

from typing import Annotated

import typer

from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_hookspecs import Command, CommandContext, RequestError


def make(context: CommandContext) -> Command:
    """The verb with its options."""

    def chat(
        message: Annotated[str | None, typer.Argument(help="One message to answer; left out: a conversation at the terminal.")] = None,
        system: o.SystemOption = None,
        continued: o.ContinueOption = False,
        resume: o.ResumeOption = None,
        image: o.ImageOption = None,
        no_log: Annotated[bool, typer.Option("--no-log", help="Do not keep the conversation, unless it is given a name.")] = False,
        model: o.ModelOption = None,
        preset: o.PresetOption = None,
        max_new_tokens: o.MaxNewTokensOption = None,
        temperature: o.TemperatureOption = None,
        top_p: o.TopPOption = None,
        top_k: o.TopKOption = None,
        seed: o.SeedOption = None,
        config: o.LongConfigOption = None,
        settings: o.SetOption = None,
        loader: o.LoaderOption = None,
        scheduler: o.SchedulerOption = None,
        as_json: o.JsonOption = False,
        quiet: o.QuietOption = False,
    ) -> None:
        """Talk with a model. At the terminal, /help lists the commands; Ctrl-C stops a reply, Ctrl-D ends the conversation."""
        from llmasos_app_text.terminal.conversation import Conversation

        if continued and resume is not None:
            raise RequestError("--continue and --resume name two conversations; leave one of them out.")
        given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
        sampling = {name: value for name, value in given.items() if value is not None}
        changes = o.with_preset(o.with_scheduler(settings, scheduler), preset)
        with context.model(model, loader=loader, config=config, settings=changes, quiet=quiet) as opened:
            conversation = Conversation(context, opened, sampling, system=system, keep=not no_log)
            for path in image or ():
                conversation.show_image(path)
            if resume is not None:
                conversation.load(resume)
            elif continued:
                conversation.load_last()
            if message is not None:
                conversation.answer_once(message, as_json=as_json)
            else:
                conversation.talk()

    return verb("chat", chat)
