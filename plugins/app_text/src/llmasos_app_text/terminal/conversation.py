"""A conversation at the terminal: commands, interruption, saving and resuming."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from llmasos_command_kit.reading import read_messages
from llmasos_conversations.fitting import left_out, newest_turns
from llmasos_conversations.store import Conversation as Kept, ConversationStore, default_folder
from llmasos_hookspecs import CommandContext, CommandModel, LLMasOSError, RequestError
from llmasos_hookspecs.nearest import did_you_mean
from llmasos_image_input.parts import GivenImage, message_of

_COMMANDS: Final = {
    "/help": "list the commands",
    "/new": "begin anew; the system message stays",
    "/system TEXT": "set the system message, and begin anew",
    "/image FILE": "show the model an image with the next message",
    "/retry": "answer the last message again",
    "/undo": "take the last message and its reply back",
    "/set NAME VALUE": "change how replies are drawn: temperature, top_p, top_k, seed, max_new_tokens; /set alone shows it",
    "/save NAME": "keep the conversation under a name, and what follows with it",
    "/load NAME": "go on with a kept one, by name or number",
    "/list": "list the kept ones used last",
    "/history": "show the conversation",
    "/exit": "end, as Ctrl-D does",
}

#: Conversations that /list shows.
_LISTED: Final = 20


class Conversation:
    """Messages so far, and what the user does with them.

    Every turn is kept as soon as it is whole, so that a kill loses none, and what another process adds to the same conversation stays.

    Args:
        keep: whether a conversation is kept before it has a name.
    """

    def __init__(
        self, context: CommandContext, model: CommandModel, sampling: dict[str, Any], *, system: str | None = None, keep: bool = True
    ) -> None:
        self._context = context
        self._model = model
        self._store = ConversationStore.chosen()
        self._sampling = sampling
        self._keep = keep and self._store.keeps_all
        self._messages: list[dict[str, Any]] = []
        #: Images that the next message is asked with.
        self._images: list[GivenImage] = []
        #: The store's number of each message that it has; those are the first of ``_messages``, the system message aside.
        self._stored: list[int] = []
        self._number: int | None = None
        self._named = False
        self._begin(system)

    def answer_once(self, message: str, *, as_json: bool = False) -> None:
        """Answer one message, and be done."""
        if as_json:
            self._say(message)
            generation = self._model.generate(self._fitting(), **self._sampling)
            self._messages.append({"role": "assistant", "content": generation.text})
            self._update()
            answer = {"reply": generation.text, "finish_reason": generation.finish_reason, "prompt_tokens": generation.prompt_tokens}
            self._context.answer({**answer, "conversation": self._number}, as_json=True)
        elif self._answer(message):
            raise KeyboardInterrupt

    def talk(self) -> None:
        """Read messages and commands until the user ends."""
        _ = self._model.context_length  # loads the model: what is wrong with it is told before the first message is typed
        greeting = 'Talk with the model; /help lists the commands, """ begins and ends a message of several lines.'
        read_messages(self._context, default_folder().with_name("chat_history"), greeting, say=self._answer, command=self._command)

    def show_image(self, path: Path) -> None:
        """Show the model an image with the next message. Raises ``RequestError`` where it reads none, or the file is no image."""
        if "image" not in self._media():
            raise RequestError("This model reads text alone, so it is shown no image; ask one that reads images.")
        self._images.append(GivenImage.of_file(path))

    def save(self, name: str) -> None:
        """Keep the conversation under a name. Raises ``RequestError`` where another one has it, or it cannot be one."""
        if self._number is None:
            if self._store.has(name):
                raise RequestError(f'There is a conversation "{name}" already; /load {name} goes on with it, or take another name.')
            self._named = True
            self._write(name)
        else:
            self._store.rename(self._number, name)
            self._named = True
        self._context.note(f"Kept as {name}; llmasos chat --resume {name} goes on with it.")

    def load(self, label: str) -> None:
        """Go on with a kept conversation, by name or number. Raises ``RequestError`` where there is none."""
        self._go_on(self._store.find(label))

    def load_last(self) -> None:
        """Go on with the conversation used last. Raises ``RequestError`` where none is kept."""
        last = self._store.last("chat")
        if last is None:
            raise RequestError("No conversation is kept that could go on; begin one without --continue.")
        self._go_on(last)

    def _go_on(self, found: Kept) -> None:
        if found.form != "chat":
            raise RequestError(f"Conversation {found.label} is a plain text and its continuation, which cannot go on as a chat.")
        self._messages = [*found.instructions(), *self._store.asked(found.messages)]
        self._number, self._named, self._stored = found.number, bool(found.name), list(found.numbers)

    def _update(self) -> None:
        """Keep what is new, and take back what was taken back."""
        if self._keep or self._named:
            try:
                self._write()
            except LLMasOSError as error:
                self._context.note(f"The conversation is not kept: {error}")

    def _write(self, name: str = "") -> None:
        system = self._system()
        messages = self._messages[0 if system is None else 1 :]
        gone, self._stored = self._stored[len(messages) :], self._stored[: len(messages)]
        if gone:
            self._store.take_back(gone)
        fresh = messages[len(self._stored) :]
        if fresh or name:
            model = str(self._model.describe().get("source", ""))
            self._number, added = self._store.add(self._number, map(_kept, fresh), name=name, system=system or "", model=model)
            self._stored += added

    def _answer(self, message: str) -> bool:
        """Answer a message, streaming; True where the user interrupted the reply."""
        self._say(message)
        return self._reply()

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
            self._context.answer(None)
        except KeyboardInterrupt:
            interrupted = True
            self._context.note(" [interrupted]")
        except LLMasOSError:
            if pieces:
                self._context.answer(None)
            else:
                self._messages.pop()
            raise
        if pieces or not interrupted:
            self._messages.append({"role": "assistant", "content": "".join(pieces)})
        else:
            self._messages.pop()
        self._update()
        return interrupted

    def _say(self, text: str) -> None:
        """Add a message of the user, with the images that it is to have."""
        self._messages.append(message_of(text, self._images))
        self._images = []

    def _media(self) -> Sequence[str]:
        _ = self._model.context_length  # what it reads is known once it is loaded
        found: Sequence[str] = self._model.describe().get("media", ())
        return found

    def _fitting(self) -> list[dict[str, Any]]:
        """The conversation, without its oldest turns where they do not fit the context; the user is told."""
        messages, dropped = newest_turns(self._model, self._messages, self._sampling.get("max_new_tokens", 1))
        if dropped:
            self._context.note(left_out(dropped))
        return messages

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
        elif name == "/image":
            if not rest:
                raise RequestError("/image needs the name of a file: /image photo.jpg.")
            self.show_image(Path(rest).expanduser())
        elif name == "/retry":
            self._take_back("assistant")
            if self._messages and self._messages[-1]["role"] == "user":
                self._update()  # the reply goes also where there is none in its place
                self._reply()
        elif name == "/undo":
            self._take_back("assistant")
            self._take_back("user")
            self._update()
        elif name == "/set":
            self._set(rest)
        elif name == "/save":
            self.save(rest)
        elif name == "/load":
            self.load(rest)
        elif name == "/list":
            listed = [f"{each.name}  ({each.turns} turns)  {each.first}" for each in self._store.summaries(_LISTED)]
            self._context.note("\n".join(listed) or "No conversation is kept.")
        elif name == "/history":
            for each in self._messages:
                self._context.answer(None, f"{each['role']}: {_shown(each['content'])}")
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
        return str(first["content"]) if first is not None and first["role"] == "system" else None

    def _begin(self, system: str | None) -> None:
        # What begins anew must not take a kept one's place.
        self._number, self._named, self._stored = None, False, []
        self._messages = [] if system is None else [{"role": "system", "content": system}]

    def _take_back(self, role: str) -> None:
        if self._messages and self._messages[-1]["role"] == role:
            self._messages.pop()


def _kept(message: dict[str, Any]) -> dict[str, Any]:
    """A message as the store takes it, with images as the bytes of their files."""
    if isinstance(message["content"], str):
        return message
    parts = [{**part, "image": _file(part["image"])} if part["type"] == "image" else part for part in message["content"]]
    return {**message, "content": parts}


def _file(image: Any) -> Any:
    return image.given if isinstance(image, GivenImage) else image


def _shown(content: Any) -> str:
    """A message's content as a line: its images are named as such."""
    if isinstance(content, str):
        return content
    return " ".join("[image]" if part["type"] == "image" else part["text"] for part in content)
