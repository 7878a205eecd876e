"""A conversation at the terminal: commands, interruption, saving and resuming."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, Final

from llmasos_app_text.terminal.reading import line_editing, read_message
from llmasos_hookspecs import CommandContext, CommandModel, ContextLengthExceeded, LLMasOSError, RequestError
from llmasos_hookspecs.nearest import did_you_mean
from llmasos_task_kit.conversations import ConversationFolder, default_folder
from llmasos_task_kit.prompting import Message

_COMMANDS: Final = {
    "/help": "list the commands",
    "/new": "begin anew; the system message stays",
    "/system TEXT": "set the system message, and begin anew",
    "/retry": "answer the last message again",
    "/undo": "take the last message and its reply back",
    "/set NAME VALUE": "change how replies are drawn: temperature, top_p, top_k, seed, max_new_tokens; /set alone shows it",
    "/save NAME": "keep the conversation; a kept one is brought up to date when it ends",
    "/load NAME": "go on with a kept one",
    "/list": "list the kept ones",
    "/history": "show the conversation",
    "/exit": "end, as Ctrl-D does",
}


class Conversation:
    """Messages so far, and what the user does with them."""

    def __init__(self, context: CommandContext, model: CommandModel, sampling: dict[str, Any], *, system: str | None = None) -> None:
        self._context = context
        self._model = model
        self._kept = ConversationFolder(default_folder())
        self._sampling = sampling
        self._messages: list[Message] = []
        self._name: str | None = None
        self._begin(system)

    def answer_once(self, message: str, *, as_json: bool = False) -> None:
        """Answer one message, and be done; a kept conversation keeps it."""
        self._messages.append({"role": "user", "content": message})
        if as_json:
            generation = self._model.generate(self._fitting(), **self._sampling)
            self._messages.append({"role": "assistant", "content": generation.text})
            answer = {"reply": generation.text, "finish_reason": generation.finish_reason, "prompt_tokens": generation.prompt_tokens}
            self._context.answer(answer, as_json=True)
        elif self._reply():
            raise KeyboardInterrupt
        self._update()

    def talk(self) -> None:
        """Read messages and commands until the user ends."""
        _ = self._model.context_length  # loads the model: what is wrong with it is told before the first message is typed
        with contextlib.ExitStack() as history:
            if sys.stdin.isatty():
                history.enter_context(line_editing(default_folder().with_name("chat_history")))
                self._context.note('Talk with the model; /help lists the commands, """ begins and ends a message of several lines.')
            while (text := read_message(lambda: self._context.note(""))) is not None:
                if not text.strip():
                    continue
                try:
                    if text.startswith("/"):
                        if self._command(text.strip()):
                            break
                        continue
                    self._messages.append({"role": "user", "content": text})
                    self._reply()
                except LLMasOSError as error:
                    self._context.note(f"Error: {error}")
        self._update()

    def save(self, name: str) -> None:
        """Keep the conversation under a name."""
        self._write(name)
        self._context.note(f"Kept as {name}; llmasos chat --resume {name} goes on with it.")

    def load(self, name: str) -> None:
        """Go on with a kept conversation. Raises ``RequestError`` where there is none by that name, or it is damaged."""
        if not self._kept.has(name):
            raise RequestError(f'There is no conversation "{name}"{did_you_mean(name, self._kept.names())}')
        try:
            found = self._kept.load(name)
        except LLMasOSError as error:
            raise RequestError(str(error)) from error  # another name is what helps
        self._messages = [*found.instructions(), *found.messages]
        self._name = name

    def _update(self) -> None:
        if self._name is not None:
            self._write(self._name)

    def _write(self, name: str) -> None:
        system = self._system()
        self._kept.replace(name, self._messages[0 if system is None else 1 :], system=system or "")
        self._name = name

    def _reply(self) -> bool:
        """Answer the last message, streaming; True where the user interrupted it.

        What was shown of an interrupted reply is kept; a message that got no reply at all is taken back.
        """
        pieces: list[str] = []
        interrupted = False
        try:
            # Closed at once where it is left early, so that nothing goes on computing.
            with contextlib.closing(self._model.stream(self._fitting(), **self._sampling)) as stream:
                for piece in stream:
                    pieces.append(piece)
                    self._context.answer(None, piece, end="")
        except KeyboardInterrupt:
            interrupted = True
            self._context.note(" [interrupted]")
        except LLMasOSError:
            if pieces:
                self._context.answer(None)
            else:
                self._messages.pop()
            raise
        else:
            self._context.answer(None)
        if pieces or not interrupted:
            self._messages.append({"role": "assistant", "content": "".join(pieces)})
        else:
            self._messages.pop()
        return interrupted

    def _fitting(self) -> list[Message]:
        """The conversation, without its oldest turns where they do not fit the context; the user is told."""
        head = [each for each in self._messages[:1] if each["role"] == "system"]
        turns = self._messages[len(head) :]
        wanted = self._sampling.get("max_new_tokens", 1)
        dropped = 0
        while self._model.count_tokens([*head, *turns]) + wanted > self._model.context_length:
            following = next((place for place, each in enumerate(turns[1:], 1) if each["role"] == "user"), None)
            if following is None:
                raise ContextLengthExceeded(
                    f"The message does not fit the model's context of {self._model.context_length} tokens; shorten it."
                )
            turns, dropped = turns[following:], dropped + 1
        if dropped:
            self._context.note(f"[The {dropped} oldest turns do not fit the context any more and are left out.]")
        return [*head, *turns]

    def _command(self, text: str) -> bool:
        """Do what a command says; True where the conversation is to end."""
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        if name in ("/exit", "/quit", "/bye"):
            return True
        if name == "/help":
            for command, meaning in _COMMANDS.items():
                self._context.note(f"  {command:16} {meaning}")
        elif name == "/new":
            self._begin(self._system())
        elif name == "/system":
            self._begin(rest or None)
        elif name == "/retry":
            self._take_back("assistant")
            if self._messages and self._messages[-1]["role"] == "user":
                self._reply()
        elif name == "/undo":
            self._take_back("assistant")
            self._take_back("user")
        elif name == "/set":
            self._set(rest)
        elif name == "/save":
            self.save(rest or self._name or "")
        elif name == "/load":
            self.load(rest)
        elif name == "/list":
            self._context.note("\n".join(self._kept.names()) or "No conversation is kept.")
        elif name == "/history":
            for each in self._messages:
                self._context.answer(None, f"{each['role']}: {each['content']}")
        else:
            raise RequestError(f"{name} is no command{did_you_mean(name, [command.split()[0] for command in _COMMANDS])}")
        return False

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not name:
            self._context.note(
                ", ".join(f"{key} {value}" for key, value in self._sampling.items()) or "Replies are drawn as the defaults say."
            )
            return
        try:
            found = json.loads(value)
        except ValueError:
            found = value
        changed = {**self._sampling, name: found}
        self._model.check_sampling(**changed)
        self._sampling = changed

    def _system(self) -> str | None:
        first = self._messages[0] if self._messages else None
        return first["content"] if first is not None and first["role"] == "system" else None

    def _begin(self, system: str | None) -> None:
        self._update()
        self._name = None  # what begins anew must not take a kept one's place
        self._messages = [] if system is None else [{"role": "system", "content": system}]

    def _take_back(self, role: str) -> None:
        if self._messages and self._messages[-1]["role"] == role:
            self._messages.pop()
