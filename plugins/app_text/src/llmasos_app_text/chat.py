"""Task ``chat``: conversations that are saved, listed and resumed."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from llmasos_app_text.sampling import SamplingInputs
from llmasos_conversations.store import ConversationStore, ConversationSummary
from llmasos_hookspecs import Component, Context, RequestError, Task, TaskModel, hookimpl
from llmasos_task_kit.conversations import action_field, in_words, manage
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.history import fit_history
from llmasos_task_kit.prompting import Message, reply_room, turn_stops, without_control_tokens

_ROLES = ("system", "user", "assistant")


@attrs.frozen(kw_only=True)
class Options:
    """Where conversations are kept."""

    folder: str = attrs.field(default="", metadata={"help": "Folder of the kept conversations; empty: the user's data folder."})


@attrs.frozen(kw_only=True)
class Inputs(SamplingInputs):
    """One message of a conversation."""

    message: str = attrs.field(default="", metadata={"help": "What to say."})
    conversation: str = attrs.field(default="", metadata={"help": "Name under which the conversation is kept; empty: not kept."})
    system: str = attrs.field(default="", metadata={"help": "Instructions for the assistant; kept with the conversation."})
    messages: tuple[dict[str, str], ...] = attrs.field(
        default=(), metadata={"help": "Earlier messages (role, content) of a conversation that is not kept here."}
    )
    action: str = action_field("conversations")


@attrs.frozen(kw_only=True)
class Output:
    """A reply, or what was asked about the kept conversations.

    ``dropped_turns`` of the oldest history, and ``cut_tokens`` in the middle of the message, did not fit the context.
    """

    text: str = ""
    conversation: str = ""
    finish_reason: str = ""
    dropped_turns: int = 0
    cut_tokens: int = 0
    messages: tuple[dict[str, str], ...] = ()
    conversations: tuple[ConversationSummary, ...] = ()

    def __str__(self) -> str:
        return in_words(self.conversations, self.text, self.messages)


class Chat:
    """Reply in a conversation."""

    inputs = Inputs
    output = Output

    def __init__(self, store: ConversationStore) -> None:
        self._store = store

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        if inputs.action != "send":
            refusal = f"chat with action {inputs.action!r} needs the name of a conversation."
            return Output(**manage(self._store, inputs.action, inputs.conversation, refusal))
        prompt, room, dropped, cut = self._prompt(model, inputs)
        generation = model.generate(prompt, max_new_tokens=room, stop=turn_stops(model), **inputs.sampling())
        text = generation.text.strip()
        self._keep(inputs, text)
        return Output(
            text=text, conversation=inputs.conversation, finish_reason=generation.finish_reason, dropped_turns=dropped, cut_tokens=cut
        )

    def stream(self, model: TaskModel, inputs: Inputs) -> Iterator[str]:
        """Stream the reply. It is saved when it is complete; if the reader stops early, the part that was read is saved."""
        if inputs.action != "send":
            yield str(self.run(model, inputs))
            return
        prompt, room, _, _ = self._prompt(model, inputs)
        pieces: list[str] = []
        try:
            for piece in model.stream(prompt, max_new_tokens=room, stop=turn_stops(model), **inputs.sampling()):
                pieces.append(piece)
                yield piece
        finally:
            if pieces:
                self._keep(inputs, "".join(pieces).strip())

    def _prompt(self, model: TaskModel, inputs: Inputs) -> tuple[list[Message], int, int, int]:
        refuse_empty(inputs, "message")
        messages = _checked(inputs.messages)
        system = inputs.system
        if inputs.conversation:
            if messages:
                raise RequestError("chat takes the name of a kept conversation or a list of messages, not both.")
            kept = self._store.load(inputs.conversation)
            if any("images" in each for each in kept.messages):
                raise RequestError(
                    f"The conversation {inputs.conversation} holds images, which this task does not read; go on with llmasos chat --resume "
                    f"{inputs.conversation}."
                )
            messages, system = list(kept.messages), inputs.system or kept.system
        if system:
            messages = [{"role": "system", "content": system}, *(message for message in messages if message["role"] != "system")]
        if inputs.message or not messages or messages[-1]["role"] != "user":
            messages.append({"role": "user", "content": inputs.message})
        messages = [{**message, "content": without_control_tokens(message["content"], model.tokenizer)} for message in messages]
        room = reply_room(model, inputs.max_new_tokens)
        fitted, dropped, cut = fit_history(model, messages, model.context_length - room)
        return fitted, room, dropped, cut

    def _keep(self, inputs: Inputs, reply: str) -> None:
        if inputs.conversation:
            turn = [{"role": "user", "content": inputs.message}, {"role": "assistant", "content": reply}]
            self._store.append(inputs.conversation, turn, system=inputs.system)


def _checked(messages: tuple[dict[str, str], ...]) -> list[Message]:
    for index, message in enumerate(messages):
        if message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
            raise RequestError(f"messages[{index}] is {message!r}; it needs a role ({', '.join(_ROLES)}) and a content, a string.")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Reply in a conversation that is kept, listed and resumed.",
        options=Options,
        examples=(
            'llmasos task chat --message "Tell me about otters." --conversation otters',
            "llmasos task chat --action list",
            'model.run("chat", message="And what do they eat?", conversation="otters")',
        ),
    )


@hookimpl
def llmasos_create_task(options: Options, context: Context) -> Task:
    return Chat(ConversationStore.chosen(options.folder))
