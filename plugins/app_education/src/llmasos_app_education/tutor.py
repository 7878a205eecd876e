"""Task ``tutor``: a saved Socratic dialogue."""

from __future__ import annotations

import attrs

from llmasos_conversations.store import ConversationStore, ConversationSummary
from llmasos_hookspecs import Component, Context, Task, TaskModel, hookimpl
from llmasos_task_kit.conversations import action_field, in_words, manage
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.history import fit_history
from llmasos_task_kit.prompting import Message, reply_room, turn_stops, without_control_tokens

_LEVELS = ("beginner", "intermediate", "advanced")

#: One short sentence that ends with a question mark, for a turn that asked nothing by itself. Bounded, or a small model lectures on.
QUESTION = r"[\p{L}\p{N}][^.!?。！？\n]{0,140}[?？]"


@attrs.frozen(kw_only=True)
class Options:
    """Where dialogues are kept."""

    folder: str = attrs.field(default="", metadata={"help": "Folder of the kept dialogues; empty: the user's data folder."})


@attrs.frozen(kw_only=True)
class Inputs:
    """What a student says."""

    message: str = attrs.field(default="", metadata={"help": "What the student says."})
    topic: str = attrs.field(default="", metadata={"help": "What the lesson is about; kept with the dialogue."})
    level: str = attrs.field(
        default="beginner",
        validator=attrs.validators.in_(_LEVELS),
        metadata={"help": "How much the student knows.", "choices": _LEVELS},
    )
    conversation: str = attrs.field(default="", metadata={"help": "Name under which the dialogue is kept; empty: not kept."})
    max_new_tokens: int = attrs.field(default=160, metadata={"help": "Tokens of the tutor's turn at most."})
    action: str = action_field("dialogues")


@attrs.frozen(kw_only=True)
class Output:
    """The tutor's turn, which ends with the one ``question`` to the student, or what was asked about the kept dialogues."""

    text: str = ""
    question: str = ""
    conversation: str = ""
    dropped_turns: int = 0
    messages: tuple[dict[str, str], ...] = ()
    conversations: tuple[ConversationSummary, ...] = ()

    def __str__(self) -> str:
        return in_words(self.conversations, self.text, self.messages)


class Tutor:
    """Lead a student to the answer by hints and questions."""

    inputs = Inputs
    output = Output

    def __init__(self, store: ConversationStore) -> None:
        self._store = store

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        if inputs.action != "send":
            refusal = f"tutor with action {inputs.action!r} needs the name of a dialogue."
            return Output(**manage(self._store, inputs.action, inputs.conversation, refusal))
        refuse_empty(inputs, "message")
        kept = self._store.load(inputs.conversation) if inputs.conversation else None
        system = kept.system if kept and kept.system and not inputs.topic else _instructions(inputs)
        said = [{"role": "user", "content": inputs.message}]
        messages = [{"role": "system", "content": system}, *(kept.messages if kept else ()), *said]
        safe = [{**message, "content": without_control_tokens(message["content"], model.tokenizer)} for message in messages]
        text, question, dropped = self._turn(model, safe, reply_room(model, inputs.max_new_tokens))
        if inputs.conversation:
            self._store.append(inputs.conversation, [*said, {"role": "assistant", "content": text}], system=system)
        return Output(text=text, question=question, conversation=inputs.conversation, dropped_turns=dropped)

    def _turn(self, model: TaskModel, messages: list[Message], new: int) -> tuple[str, str, int]:
        """The tutor's turn, its question, and the number of history turns that did not fit. A turn ends at its first question; if it has
        none, a second request constrained to a question adds one."""
        prompt, dropped, _ = fit_history(model, messages, model.context_length - new)
        generation = model.generate(prompt, max_new_tokens=new, stop=("?", "？", *turn_stops(model)))
        text = generation.text.strip()
        if generation.stop in ("?", "？") and text:
            text += generation.stop
            return text, _last_sentence(text), dropped
        ask = f"{messages[-1]['content']}\n\n(Ask one short question that helps with this.)"
        prompt, dropped, _ = fit_history(model, [*messages[:-1], {"role": "user", "content": ask}], model.context_length - new)
        question = model.generate(prompt, max_new_tokens=new, regex=QUESTION).text.strip()
        if not question.endswith(("?", "？")):
            question += "?"  # the token limit cut it
        return f"{text} {question}".strip(), question, dropped


def _last_sentence(text: str) -> str:
    """What stands behind the last end of a sentence or line before the final question mark."""
    start = max(text.rfind(mark, 0, len(text) - 1) for mark in (". ", "! ", "? ", "\n", "。", "！", "？"))
    return text[start + 1 :].strip()


def _instructions(inputs: Inputs) -> str:
    topic = f" about {inputs.topic.strip()}" if inputs.topic.strip() else ""
    return (
        f"You are a patient tutor{topic} for a {inputs.level} student. Never give the answer. "
        "Give one short hint, then ask one question that leads the student to the next step."
    )


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Lead a student to the answer by hints and questions, in a dialogue that is kept.",
        options=Options,
        examples=(
            'llmasos task tutor --topic fractions --message "Why is 1/2 the same as 2/4?" --conversation ann',
            'model.run("tutor", message="Because both are halves?", conversation="ann").text',
        ),
    )


@hookimpl
def llmasos_create_task(options: Options, context: Context) -> Task:
    return Tutor(ConversationStore.chosen(options.folder, "lessons"))
