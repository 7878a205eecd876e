"""A conversation with the assistant at the terminal: its calls are shown on standard error, and the user is asked about some."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from llmasos_app_assistant.listeners import CallEvent, Listener, listening
from llmasos_app_assistant.memory.database import AssistantDatabase
from llmasos_app_assistant.memory.journal import Journals
from llmasos_command_kit.reading import read_message, read_messages
from llmasos_conversations.store import ConversationStore, default_folder
from llmasos_hookspecs import CommandContext, CommandModel, RequestError
from llmasos_hookspecs.nearest import did_you_mean

_COMMANDS: Final = {
    "/help": "list the commands",
    "/continue": "go on with a turn that was interrupted",
    "/discard": "give such a turn up",
    "/new": "begin anew",
    "/exit": "end, as Ctrl-D does",
}
#: Characters of arguments and of a result that are shown of a call.
_SHOWN: Final = 200


class Conversation:
    """Messages to the assistant, one turn after the other; each is kept as soon as it is whole.

    Args:
        inputs: of the task, beside the message.
        keep: whether the conversation is kept.
        as_json: whether answers are printed as JSON.
    """

    def __init__(
        self, context: CommandContext, model: CommandModel, inputs: Mapping[str, Any], *, keep: bool = True, as_json: bool = False
    ) -> None:
        self._context = context
        self._model = model
        self._task = model.task("assist")
        self._inputs = dict(inputs)
        self._as_json = as_json
        self._store = ConversationStore.chosen()
        self._keep = keep and self._store.keeps_all
        self._label = ""
        self._messages: list[dict[str, str]] = []

    def load(self, label: str) -> None:
        """Go on with a kept conversation, by name or number. Raises ``RequestError`` where there is none."""
        self._label = self._store.find(label).label

    def load_last(self) -> None:
        """Go on with the conversation used last. Raises ``RequestError`` where none is kept."""
        last = self._store.last("chat")
        if last is None:
            raise RequestError("No conversation is kept that could go on; begin one without --continue.")
        self._label = last.label

    def goes_on(self) -> bool:
        """Whether the last turn of the conversation was interrupted, or waits to be confirmed."""
        if not self._label:
            return False
        journals = Journals(AssistantDatabase(self._store.path.parent))
        return journals.open(self._store.find(self._label).number) is not None

    def go_on(self) -> None:
        """End the turn that has not ended."""
        self._context.note("[The last turn goes on.]")
        self._turn({"action": "continue", "conversation": self._label})

    def answer(self, message: str) -> None:
        """Answer a message. A turn that was interrupted is given up."""
        if self.goes_on():
            self._context.note("[The turn that was interrupted is given up.]")
            self._task.task.run(self._model, self._task.read({"action": "discard", "conversation": self._label}))
        if self._keep and not self._label:
            number, _ = self._store.add(None, [])
            self._label = str(number)
        kept = {"conversation": self._label} if self._label else {"messages": list(self._messages)}
        said = self._turn({"message": message, **kept})
        if not self._label:
            self._messages += [{"role": "user", "content": message}, {"role": "assistant", "content": said}]

    def talk(self) -> None:
        """Read messages and commands until the user ends."""
        _ = self._model.context_length  # loads the model: what is wrong with it is told before the first message is typed
        read_messages(
            self._context,
            default_folder().with_name("assist_history"),
            "Talk with the assistant; /help lists the commands.",
            say=self.answer,
            command=self._command,
            interrupted=" [interrupted; /continue goes on]",
        )

    def _turn(self, asked: dict[str, Any]) -> str:
        """Run the task, and print its answer; returns the answer."""
        inputs = self._task.read({**self._inputs, **asked})
        with listening(Listener(shown=self._show, confirm=self._confirm)):
            if self._as_json:
                output = self._task.task.run(self._model, inputs)
                self._context.answer(self._task.plain(output), as_json=True)
                return str(output.text)
            pieces: list[str] = []
            stream = self._task.task.stream(self._model, inputs)  # type: ignore[attr-defined]  # the task has it
            with contextlib.closing(stream):
                for piece in stream:
                    pieces.append(piece)
                    self._context.answer(None, piece, end="")
            self._context.answer(None)
            return "".join(pieces)

    def _show(self, event: CallEvent) -> None:
        if event.kind == "called":
            self._context.note(f"[{event.tool} {_short(event.arguments)}]")
        else:
            mark = "!" if event.kind == "failed" else "="
            self._context.note(f"[{mark} {_short(event.text)}]")

    def _confirm(self, event: CallEvent) -> bool | None:
        """Ask the user; None where nobody sits at a terminal."""
        if not sys.stdin.isatty():
            return None
        self._context.note(f"The assistant wants to call {event.tool} with {json.dumps(dict(event.arguments), ensure_ascii=False)}.")
        answer = read_message(lambda: self._context.note("")) or ""
        return answer.strip().lower() in ("y", "yes")

    def _command(self, text: str) -> bool:
        """Do what a command says; True where the conversation is to end."""
        if text in ("/exit", "/quit", "/bye"):
            return True
        if text == "/help":
            for command, meaning in _COMMANDS.items():
                self._context.note(f"  {command:10} {meaning}")
        elif text == "/new":
            self._label, self._messages = "", []
        elif text == "/continue":
            if not self.goes_on():
                raise RequestError("Every turn has ended, so there is nothing to go on with.")
            self.go_on()
        elif text == "/discard":
            if not self.goes_on():
                raise RequestError("Every turn has ended, so there is nothing to give up.")
            self._task.task.run(self._model, self._task.read({"action": "discard", "conversation": self._label}))
        else:
            raise RequestError(f"{text.partition(' ')[0]} is no command{did_you_mean(text, _COMMANDS)}")
        return False


def _short(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else json.dumps(dict(value), ensure_ascii=False)).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
