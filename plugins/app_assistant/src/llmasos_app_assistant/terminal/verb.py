"""The verb ``assist``: its options, and the model and tools that they describe."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_hookspecs import Command, CommandContext, RequestError

FilesOption = Annotated[list[str] | None, typer.Option("--files", help="A folder whose files may be listed and read.")]
DocumentsOption = Annotated[list[str] | None, typer.Option("--documents", help="A file or folder of text that may be searched.")]
FunctionOption = Annotated[list[str] | None, typer.Option("--function", help="A Python function as a tool: module:name.")]
TaskOption = Annotated[list[str] | None, typer.Option("--task", help="An installed task as a tool, by name.")]
CalculatorOption = Annotated[bool, typer.Option("--calculator", help="Let the model calculate.")]
ClockOption = Annotated[bool, typer.Option("--clock", help="Let the model ask what time it is.")]
RecallOption = Annotated[bool, typer.Option("--recall", help="Let the model search the kept conversations.")]


def make(context: CommandContext) -> Command:
    """The verb with its options."""

    def assist(
        message: Annotated[str | None, typer.Argument(help="One message to answer; left out: a conversation at the terminal.")] = None,
        files: FilesOption = None,
        documents: DocumentsOption = None,
        function: FunctionOption = None,
        task: TaskOption = None,
        calculator: CalculatorOption = False,
        clock: ClockOption = False,
        recall: RecallOption = False,
        system: o.SystemOption = None,
        continued: o.ContinueOption = False,
        resume: o.ResumeOption = None,
        no_log: o.NoLogOption = False,
        model: o.ModelOption = None,
        preset: o.PresetOption = None,
        max_new_tokens: o.MaxNewTokensOption = None,
        temperature: o.TemperatureOption = None,
        top_p: o.TopPOption = None,
        seed: o.SeedOption = None,
        config: o.LongConfigOption = None,
        settings: o.SetOption = None,
        loader: o.LoaderOption = None,
        scheduler: o.SchedulerOption = None,
        as_json: o.JsonOption = False,
        quiet: o.QuietOption = False,
    ) -> None:
        """Talk with an assistant that uses tools. Its tools are those of [tasks.assist] in config, and those named here. At the terminal,
        /help lists the commands; Ctrl-C stops a turn, Ctrl-D ends the conversation."""
        from llmasos_app_assistant.terminal.conversation import Conversation

        if continued and resume is not None:
            raise RequestError("--continue and --resume name two conversations; leave one of them out.")
        lists = {"files": files, "documents": documents, "functions": function, "tasks": task}
        switches = {"calculator": calculator, "clock": clock, "recall": recall}
        named: dict[str, Any] = {name: value for name, value in (lists | switches).items() if value}
        given = {"system": system, "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
        # What is named here comes first, so that --set has the last word.
        changes = [f"tasks.assist.{name}={json.dumps(value)}" for name, value in named.items()]
        changes += o.with_preset(o.with_scheduler(settings, scheduler), preset)
        changes.append('tasks.assist.folder=""')  # with the conversations of llmasos chat, wherever config keeps those of servers
        with context.model(model, loader=loader, config=config, settings=changes, quiet=quiet) as opened:
            conversation = Conversation(
                context, opened, {name: value for name, value in given.items() if value is not None}, keep=not no_log, as_json=as_json
            )
            if resume is not None:
                conversation.load(resume)
            elif continued:
                conversation.load_last()
            if message is not None:
                conversation.answer(message)
            elif resume is not None and conversation.goes_on():
                conversation.go_on()
                if not as_json:
                    conversation.talk()
            else:
                conversation.talk()

    return verb("assist", assist)
