"""Task ``assist``: answers a message with the help of tools."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final

import attrs

from llmasos_app_assistant.assistant import Answer, Assistant, Events, drained, shown, texts
from llmasos_app_assistant.done import DoneStep
from llmasos_app_assistant.listeners import CallEvent
from llmasos_app_assistant.memory.recall import Recalled
from llmasos_app_assistant.options import Options
from llmasos_app_assistant.tools.configured import configured_sources, configured_tools
from llmasos_app_assistant.turn_parts import MadeCall
from llmasos_conversations.store import ConversationSummary
from llmasos_hookspecs import Component, Context, RequestError, Task, TaskCall, TaskEvent, TaskModel, TaskOutput, hookimpl
from llmasos_task_kit.conversations import in_words, manage
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.prompting import Message

_ACTIONS: Final = ("send", "continue", "discard", "list", "show", "delete", "recall")
_ROLES: Final = ("system", "user", "assistant")


@attrs.frozen(kw_only=True)
class Inputs:
    """One message of a conversation with the assistant."""

    message: str = attrs.field(default="", metadata={"help": "What to say; what to look for, where the action is recall."})
    conversation: str = attrs.field(default="", metadata={"help": "Name under which the conversation is kept; empty: not kept."})
    system: str = attrs.field(default="", metadata={"help": "Instructions for the assistant; kept with the conversation."})
    messages: tuple[dict[str, str], ...] = attrs.field(
        default=(), metadata={"help": "Earlier messages (role, content) of a conversation that is not kept here."}
    )
    action: str = attrs.field(
        default="send",
        validator=attrs.validators.in_(_ACTIONS),
        metadata={
            "help": "Send a message; continue or discard a turn that was interrupted, or waits to be confirmed; list, show or delete kept "
            "conversations; or recall what was said in them.",
            "choices": _ACTIONS,
        },
    )
    approve: tuple[str, ...] = attrs.field(default=(), metadata={"help": "With continue or done: ids of calls that may be run."})
    refuse: tuple[str, ...] = attrs.field(default=(), metadata={"help": "With continue or done: ids of calls that may not be run."})
    waits: bool = attrs.field(
        default=False,
        metadata={
            "help": "Where the conversation is not kept, end the turn at calls that have to be confirmed, which are then in pending, and "
            "do not refuse them; done, approve and refuse go on with it."
        },
    )
    done: tuple[DoneStep, ...] = attrs.field(
        default=(),
        metadata={
            "help": "What the assistant did so far to answer the message, where that waits to be confirmed and is not kept: its steps, "
            "each with its text and its calls."
        },
    )
    tools: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Names of the tools that may be called; empty: all."})
    tool_choice: str = attrs.field(
        default="auto", metadata={"help": "Whether the first step calls a tool: auto, none, required, or the tool's name."}
    )
    max_new_tokens: int = attrs.field(default=512, metadata={"help": "Tokens of one step of the model at most."})
    temperature: float = attrs.field(default=0.0, metadata={"help": "0 is greedy; higher is more varied."})
    top_p: float = attrs.field(default=1.0, metadata={"help": "Sample from the most probable tokens with this total probability."})
    seed: int | None = attrs.field(default=None, metadata={"help": "Makes a sampled text reproducible."})

    def how(self) -> dict[str, Any]:
        """The fields of ``Asked`` that these are."""
        return {
            "system": self.system,
            "messages": _checked(self.messages),
            "sampling": {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed},
            "max_new_tokens": self.max_new_tokens,
            "choice": self.tool_choice,
            "only": self.tools,
            "decided": {**dict.fromkeys(self.approve, True), **dict.fromkeys(self.refuse, False)},
            "done": self.done,
            "waits": self.waits,
        }


@attrs.frozen(kw_only=True)
class Call:
    """A call of a tool, and what the model was shown of its result; ``error``: it failed, or was refused."""

    id: str
    tool: str
    arguments: Mapping[str, Any]
    result: str = ""
    error: bool = False

    @classmethod
    def of(cls, made: MadeCall) -> Call:
        return cls(id=made.id, tool=made.tool, arguments=made.arguments, result=made.result, error=made.error)


@attrs.frozen(kw_only=True)
class Output:
    """An answer with the calls that it took, or what was asked about the kept conversations.

    ``finish_reason`` is ``stop``; ``length``: ``max_new_tokens`` cut the answer; ``steps``, ``time`` or ``tokens``: a bound ended the turn;
    ``confirm``: the calls in ``pending`` have to be approved or refused before it goes on.
    """

    text: str = ""
    conversation: str = ""
    finish_reason: str = ""
    calls: tuple[Call, ...] = ()
    pending: tuple[Call, ...] = ()
    prompt_tokens: int = 0
    generated_tokens: int = 0
    messages: tuple[dict[str, str], ...] = ()
    conversations: tuple[ConversationSummary, ...] = ()
    recalled: tuple[Recalled, ...] = ()

    def __str__(self) -> str:
        found = "\n\n".join(f"[{each.conversation}, {each.updated}]\n{each.text}" for each in self.recalled)
        return found or in_words(self.conversations, self.text, self.messages)


class Assist:
    """Answer a message with the help of tools."""

    inputs = Inputs
    output = Output
    metrics = ("text",)

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant
        # Nobody closes a task; its servers end with it, and with the process.
        weakref.finalize(self, assistant.close)

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        assistant = self._assistant
        match inputs.action:
            case "send" | "continue":
                return _output(drained(self._answer(model, inputs)))
            case "recall":
                refuse_empty(inputs, "message")
                return Output(recalled=tuple(assistant.recall(inputs.message, model=model)))
            case "discard":
                assistant.discard(self._named(inputs))
                return Output(conversation=inputs.conversation)
            case "delete":
                assistant.forget(self._named(inputs))
                return Output(conversation=inputs.conversation)
        return Output(**manage(assistant.store, inputs.action, inputs.conversation, _nameless(inputs)))

    def stream(self, model: TaskModel, inputs: Inputs) -> Iterator[str]:
        """What the model says, before calls too, as it comes."""
        if inputs.action not in ("send", "continue"):
            yield str(self.run(model, inputs))
            return
        answer = yield from texts(self._answer(model, inputs))
        if answer.pending:
            yield "\n".join(f"[{call.tool} has to be approved: {call.id}]" for call in answer.pending)

    def events(self, model: TaskModel, inputs: Inputs) -> Iterator[TaskEvent]:
        """What the model says, and each call as it begins and ends, as it happens."""
        if inputs.action not in ("send", "continue"):
            yield TaskOutput(self.run(model, inputs))
            return
        told: Generator[TaskEvent, None, Answer] = shown(self._answer(model, inputs), _event)
        answer = yield from told
        for call in answer.pending:
            yield TaskCall(kind="asked", id=call.id, tool=call.tool, arguments=call.arguments)
        yield TaskOutput(_output(answer))

    def _answer(self, model: TaskModel, inputs: Inputs) -> Events:
        how = inputs.how()
        if inputs.action == "continue":
            return self._assistant.resumed_events(self._named(inputs), model=model, **how)
        refuse_empty(inputs, "message")
        return self._assistant.events(inputs.message, conversation=inputs.conversation, model=model, **how)

    @staticmethod
    def _named(inputs: Inputs) -> str:
        if not inputs.conversation:
            raise RequestError(_nameless(inputs), "conversation")
        return inputs.conversation


def _event(event: str | CallEvent) -> TaskEvent:
    """An event of the assistant as tasks tell it."""
    if isinstance(event, str):
        return event
    return TaskCall(kind=event.kind, id=event.id, tool=event.tool, arguments=event.arguments, text=event.text)


def _nameless(inputs: Inputs) -> str:
    return f"assist with action {inputs.action!r} needs the name of a conversation."


def _output(answer: Answer) -> Output:
    return Output(
        text=answer.text,
        conversation=answer.conversation,
        finish_reason=answer.finish_reason,
        calls=tuple(map(Call.of, answer.calls)),
        pending=tuple(map(Call.of, answer.pending)),
        prompt_tokens=answer.prompt_tokens,
        generated_tokens=answer.generated_tokens,
    )


def _checked(messages: tuple[dict[str, str], ...]) -> list[Message]:
    for place, message in enumerate(messages):
        if set(message) != {"role", "content"} or message["role"] not in _ROLES:
            raise RequestError(f"messages[{place}] must have role (one of {', '.join(_ROLES)}) and content, and nothing else.", "messages")
    return list(messages)


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Answer a message with the help of tools: functions, tasks, files, servers of the Model Context Protocol, APIs.",
        options=Options,
        examples=(
            'llmasos task assist --message "What is 17 % of 2,340?" --set tasks.assist.calculator=true',
            'model.run("assist", message="What did we say about the roof?", conversation="house").calls',
        ),
    )


@hookimpl
def llmasos_create_task(options: Options, context: Context) -> Task:
    assistant = Assistant(
        policy=options.policy,
        bounds=options.bounds,
        system=options.system,
        folder=options.folder,
        embedding_model=options.embedding_model,
    )
    assistant.add(
        *configured_tools(options, context, assistant.memory, assistant.vectors),
        sources=configured_sources(options, offline=context.offline),
    )
    return Assist(assistant)
