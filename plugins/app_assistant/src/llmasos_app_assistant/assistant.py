"""The assistant: tools, a policy, and conversations that it remembers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import attrs
from filelock import FileLock, Timeout

from llmasos_app_assistant.bounds import Bounds
from llmasos_app_assistant.done import DoneStep, entries_of
from llmasos_app_assistant.listeners import CallEvent, current_listener
from llmasos_app_assistant.memory.database import AssistantDatabase
from llmasos_app_assistant.memory.journal import Journal, Journals, KeptJournal, MemoryJournal
from llmasos_app_assistant.memory.recall import Recall, Recalled
from llmasos_app_assistant.memory.summaries import Summaries, as_instructions, shortened
from llmasos_app_assistant.memory.vectors import VectorStore
from llmasos_app_assistant.policy import Rule, always_denied
from llmasos_app_assistant.tools.functions import tool as as_tool
from llmasos_app_assistant.tools.tool import Tool, ToolSource
from llmasos_app_assistant.turn import Turn, tool_choice
from llmasos_app_assistant.turn_parts import Ended, MadeCall, TurnParts
from llmasos_conversations.store import Conversation, ConversationStore
from llmasos_hookspecs import ConfigError, RequestError, TaskModel
from llmasos_task_kit.prompting import Message, reply_room

T = TypeVar("T")

_NEW_TOKENS: Final = 512
#: Share of the context that earlier turns may take; the rest is for tools, results and the answer.
_HISTORY: Final = 3


@attrs.frozen(kw_only=True)
class Answer:
    """What the assistant answers.

    Attributes:
        text: the answer; what there was to say so far, where a bound ended the turn.
        finish_reason: ``stop``; ``length``: the answer was cut by ``max_new_tokens``; ``steps``, ``time`` or ``tokens``: a bound ended the
            turn; ``confirm``: the calls in ``pending`` wait for somebody to decide about them.
        calls: that were made, in order.
        pending: calls to decide about; ``resume`` takes their ids.
        conversation: name or number under which the conversation is kept; empty: it is not.
        prompt_tokens, generated_tokens: that the model read and wrote, over all steps.
    """

    text: str
    finish_reason: str
    calls: tuple[MadeCall, ...] = ()
    pending: tuple[MadeCall, ...] = ()
    conversation: str = ""
    prompt_tokens: int = 0
    generated_tokens: int = 0

    def __str__(self) -> str:
        return self.text


@attrs.frozen(kw_only=True)
class Asked:
    """How a message is to be answered.

    Attributes:
        system: instructions; empty: those of the conversation, else the assistant's.
        messages: earlier ones of a conversation that is not kept here.
        sampling: further arguments of generations.
        max_new_tokens: of one step of the model.
        choice: whether the first step calls a tool: ``auto``, ``none``, ``required``, or the name of the tool.
        only: names of the tools that may be called; empty: all.
        decided: calls that somebody has decided about, by id.
        done: what the assistant did so far to answer the message, where the turn is not kept here and goes on.
        waits: a turn that is not kept ends with ``confirm`` where a call has to be confirmed; else the call is refused.
    """

    system: str = ""
    messages: Sequence[Message] = ()
    sampling: Mapping[str, Any] = attrs.field(factory=dict)
    max_new_tokens: int = _NEW_TOKENS
    choice: str = "auto"
    only: Sequence[str] = ()
    decided: Mapping[str, bool] = attrs.field(factory=dict)
    done: Sequence[DoneStep] = ()
    waits: bool = False


#: What happens while a message is answered: pieces of text, and calls. The generator returns the answer.
Events = Generator[str | CallEvent, None, Answer]


class Assistant:
    """Answers messages with the help of tools; safe to share between threads.

    ``Assistant(model, tools=[weather]).ask("Is it warm in Paris?")`` calls the function ``weather``, whose type hints are its schema.
    """

    def __init__(
        self,
        model: TaskModel | None = None,
        *,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        sources: Sequence[ToolSource] = (),
        policy: Sequence[Rule] = (),
        bounds: Bounds | None = None,
        system: str = "",
        folder: str = "",
        embedding_model: str | None = None,
    ) -> None:
        """
        Args:
            model: that answers; left out: each call names one.
            tools: that it may call; a function is made one by ``tool``.
            sources: where further tools come from.
            policy: rules for calls; the first that matches counts, else the tool's own decision.
            bounds: of a turn.
            system: instructions.
            folder: of the kept conversations; empty: the user's data folder.
            embedding_model: a model of the config that finds what was said by meaning.

        Raises:
            ConfigError: a function cannot be a tool, or two tools have one name.
        """
        self.store: Final = ConversationStore.chosen(folder)
        database = AssistantDatabase(self.store.path.parent)
        self.vectors: Final = VectorStore(database)
        self._model = model
        self._tools: list[Tool] = []
        self._sources: list[ToolSource] = []
        self._rules = tuple(policy)
        self._bounds = bounds or Bounds()
        self._system = system
        self._journals = Journals(database)
        self._summaries = Summaries(database)
        self.memory: Final = Recall(self.store, self.vectors, embedding_model)
        self.add(*(each if isinstance(each, Tool) else as_tool(each) for each in tools), sources=sources)

    def add(self, *tools: Tool, sources: Sequence[ToolSource] = ()) -> None:
        """Let it call further tools. Raises ``ConfigError`` where one has the name of another."""
        self._tools += tools
        self._sources += sources
        _by_name(self._tools)

    # Answering

    def ask(self, message: str, *, conversation: str = "", model: TaskModel | None = None, **how: Any) -> Answer:
        """Answer a message; ``conversation``: name or number under which the conversation is kept, ``how``: the fields of ``Asked``.

        Raises:
            RequestError: a field is refused, or the last turn of the conversation has not ended.
            LLMasOSError: the model or a source of tools fails. A turn of a kept conversation that had begun can be resumed.
        """
        return drained(self.events(message, conversation=conversation, model=model, **how))

    def stream(self, message: str, *, conversation: str = "", model: TaskModel | None = None, **how: Any) -> Generator[str, None, Answer]:
        """``ask`` piece by piece: what the model says, before calls too. The generator returns the answer."""
        return texts(self.events(message, conversation=conversation, model=model, **how))

    def events(self, message: str, *, conversation: str = "", model: TaskModel | None = None, **how: Any) -> Events:
        """``ask`` as it happens: what the model says piece by piece, and each call as it begins and ends. The generator returns the
        answer."""
        asked = Asked(**how)
        if not message.strip():
            raise RequestError("message is empty, so there is nothing to answer.", "message")
        if conversation and asked.messages:
            raise RequestError("Give the name of a kept conversation, or a list of messages, not both.", "messages")
        if conversation and asked.done:
            raise RequestError("What the assistant did in a kept conversation is known here; leave it out.", "done")
        return self._new(message, conversation, self._chosen(model), asked)

    def resume(self, conversation: str, *, model: TaskModel | None = None, **how: Any) -> Answer:
        """Go on with the last turn of a kept conversation, which was interrupted or waits to be confirmed.

        A call that was being run when it was interrupted is run again where its tool is ``repeatable``; else the model is told that nobody
        knows whether it was done. Raises as ``ask``, and ``RequestError`` where no turn is open.
        """
        return drained(self.resumed_events(conversation, model=model, **how))

    def resumed(self, conversation: str, *, model: TaskModel | None = None, **how: Any) -> Generator[str, None, Answer]:
        """``resume`` piece by piece."""
        return texts(self.resumed_events(conversation, model=model, **how))

    def resumed_events(self, conversation: str, *, model: TaskModel | None = None, **how: Any) -> Events:
        """``resume`` as it happens, as ``events``."""
        asked = Asked(**how)
        kept = self.store.find(conversation)
        return self._continued(kept, self._chosen(model), asked)

    def unfinished(self, conversation: str) -> bool:
        """Whether the last turn of a kept conversation has not ended."""
        return self._journals.open(self.store.find(conversation).number) is not None

    def discard(self, conversation: str) -> None:
        """Give up the turn of a kept conversation that has not ended. Raises ``RequestError`` where there is none."""
        kept = self.store.find(conversation)
        with self._locked(kept.number):
            self._open(kept).end()

    def recall(self, query: str, count: int = 3, *, model: TaskModel | None = None) -> list[Recalled]:
        """The turns of kept conversations that fit a query best."""
        return self.memory.find(self._chosen(model), query, count)

    def forget(self, conversation: str) -> None:
        """Remove a kept conversation and all that was written of it. Raises ``RequestError`` where there is none."""
        number = self.store.find(conversation).number
        with self._locked(number):
            self._journals.forget(number)
            self.store.delete(conversation)

    def close(self) -> None:
        """End the servers of tools that were started."""
        for source in self._sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Turns

    def _new(self, message: str, conversation: str, model: TaskModel, asked: Asked) -> Events:
        if not conversation:
            said = [*asked.messages, {"role": "user", "content": message}]
            system = next((each["content"] for each in said if each["role"] == "system"), "")
            history = [each for each in said if each["role"] != "system"]
            kept = Conversation(system=asked.system or system, messages=tuple(history), numbers=tuple(range(1, len(history) + 1)))
            return (yield from self._turn(model, asked, kept, MemoryJournal(entries_of(asked.done)), history))
        kept = self._kept(conversation, asked.system)
        with self._locked(kept.number):
            kept = self.store.find(conversation)  # another process may have added a turn before the lock was ours
            journal = self._journals.begin(kept.number, message, len(kept.messages))
            return (yield from self._kept_turn(model, asked, kept, journal))

    def _continued(self, kept: Conversation, model: TaskModel, asked: Asked) -> Events:
        with self._locked(kept.number):
            return (yield from self._kept_turn(model, asked, kept, self._open(kept)))

    def _kept_turn(self, model: TaskModel, asked: Asked, kept: Conversation, journal: KeptJournal) -> Events:
        if any("images" in each for each in kept.messages):
            journal.end()
            raise RequestError(f"The conversation {kept.label} holds images, which the assistant does not read; go on with llmasos chat.")
        before = kept.messages[: journal.messages]
        user = {"role": "user", "content": journal.message}
        try:
            answer = yield from self._turn(model, asked, attrs.evolve(kept, messages=before), journal, [*before, user])
        except BaseException:
            if not journal.entries:  # nothing was done that could be gone on with
                journal.end()
            raise
        if answer.finish_reason != "confirm":
            said = [user, {"role": "assistant", "content": answer.text}]
            # They are there already where it was killed between keeping the answer and ending the turn.
            if list(kept.messages[journal.messages : journal.messages + 2]) != said:
                self.store.add(kept.number, said)
            journal.end()
        return answer

    def _turn(self, model: TaskModel, asked: Asked, kept: Conversation, journal: Journal, messages: Sequence[Message]) -> Events:
        tools = self._offered(asked)
        turn = Turn(
            TurnParts(
                model=model,
                tools=tools,
                rules=self._rules,
                bounds=self._bounds,
                journal=journal,
                listener=current_listener(),
                history=self._history(model, asked, kept, messages),
                sampling=asked.sampling,
                max_new_tokens=reply_room(model, asked.max_new_tokens),
                choice=tool_choice(asked.choice, tools),
                decided=asked.decided,
                waits=bool(kept.number) or asked.waits,
                conversation=kept.number,
            )
        )
        yield from turn.run()
        assert turn.ended is not None
        return _answer(turn.ended, kept)

    def _history(self, model: TaskModel, asked: Asked, kept: Conversation, messages: Sequence[Message]) -> list[Mapping[str, Any]]:
        """The messages before the turn, its own included; the oldest turns are summarised where they are too long."""
        before = self._summaries.find(kept.number) if kept.number else None
        *earlier, last = messages
        shown, summary = shortened(model, earlier, kept.numbers, before, model.context_length // _HISTORY)
        if kept.number and summary is not None and summary != before:
            self._summaries.keep(kept.number, summary)
        return [*as_instructions(asked.system or kept.system or self._system, summary), *shown, last]

    def _offered(self, asked: Asked) -> list[Tool]:
        """The tools that may be called now; those whose every call the policy refuses are not offered."""
        found = [*self._tools, *(tool for source in self._sources for tool in source.tools())]
        known = _by_name(found)
        for name in asked.only:
            if name not in known:
                raise RequestError(f'There is no tool "{name}"; there are {", ".join(known) or "none"}.', "only")
        return [tool for tool in found if (not asked.only or tool.name in asked.only) and not always_denied(self._rules, tool)]

    def _chosen(self, model: TaskModel | None) -> TaskModel:
        found = model if model is not None else self._model
        if found is None:
            raise RequestError("The assistant has no model; name one.", "model")
        return found

    def _kept(self, label: str, system: str) -> Conversation:
        """The conversation of a name or number, which is begun where there is none of the name."""
        try:
            found = self.store.find(label)
        except RequestError:
            self.store.add(None, [], name=label, system=system)
        else:
            if system and system != found.system:
                self.store.add(found.number, [], system=system)
        return self.store.find(label)

    def _open(self, kept: Conversation) -> KeptJournal:
        found = self._journals.open(kept.number)
        if found is None:
            raise RequestError(f"Every turn of the conversation {kept.label} has ended, so there is nothing to go on with.")
        return found

    @contextlib.contextmanager
    def _locked(self, number: int) -> Iterator[None]:
        """One turn of a conversation at a time, in whatever process; the lock of a process that was killed is free."""
        path = Path(self.store.path.parent, f"assistant-{number}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)  # a stream may be closed by another thread than began it
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise RequestError("A turn of this conversation is in progress, here or in another process; wait until it has ended.") from None
        try:
            yield
        finally:
            lock.release()


def _answer(ended: Ended, kept: Conversation) -> Answer:
    label = kept.label if kept.number else ""
    return Answer(
        text=ended.text,
        finish_reason=ended.finish,
        calls=ended.calls,
        pending=ended.pending,
        conversation=label,
        prompt_tokens=ended.prompt_tokens,
        generated_tokens=ended.generated_tokens,
    )


def _by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    found: dict[str, Tool] = {}
    for tool in tools:
        if tool.name in found:
            raise ConfigError(f'Two tools are called "{tool.name}"; give one of them another name.')
        found[tool.name] = tool
    return found


def texts(events: Events) -> Generator[str, None, Answer]:
    """What the model says of all that happens. The generator returns the answer."""
    return shown(events, lambda event: event if isinstance(event, str) else None)


def shown(events: Events, show: Callable[[str | CallEvent], T | None]) -> Generator[T, None, Answer]:
    """What ``show`` makes of each event; None is left out. The generator returns the answer."""
    with contextlib.closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            if (made := show(event)) is not None:
                yield made


def drained(events: Events) -> Answer:
    """The answer, once all has happened."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
