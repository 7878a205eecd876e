"""A conversation at the terminal: history, commands, interruption, saving and resuming."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmasos.cli.console import print_error, print_json, print_note, print_result
from llmasos.system.folders import data_folder
from llmasos_hookspecs import ContextLengthExceeded, LLMasOSError, RequestError
from llmasos_hookspecs.atomic import write_atomically
from llmasos_hookspecs.nearest import did_you_mean

if TYPE_CHECKING:
    from llmasos.api.model import LanguageModel

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
#: Lines of the history that are kept.
_HISTORY: Final = 1000
_MULTILINE: Final = '"""'
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Conversation:
    """Messages so far, and what the user does with them."""

    def __init__(self, model: LanguageModel, sampling: dict[str, Any], *, system: str | None = None) -> None:
        self._model = model
        self._sampling = sampling
        self._messages: list[dict[str, str]] = []
        self._name: str | None = None
        self._begin(system)

    def answer_once(self, message: str, *, as_json: bool = False) -> None:
        """Answer one message, and be done; a kept conversation keeps it."""
        self._messages.append({"role": "user", "content": message})
        if as_json:
            generation = self._model.generate(self._fitting(), **self._sampling)
            self._messages.append({"role": "assistant", "content": generation.text})
            print_json({"reply": generation.text, "finish_reason": generation.finish_reason, "prompt_tokens": generation.prompt_tokens})
        elif self._reply():
            raise KeyboardInterrupt
        self._update()

    def talk(self) -> None:
        """Read messages and commands until the user ends."""
        self._model.pipeline.load(self._model.name)  # what is wrong with the model is told before the first message is typed
        with contextlib.ExitStack() as history:
            if sys.stdin.isatty():
                history.enter_context(_line_editing())
                print_note('Talk with the model; /help lists the commands, """ begins and ends a message of several lines.')
            while (text := self._read()) is not None:
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
                    print_error(str(error))
        self._update()

    def save(self, name: str) -> None:
        """Keep the conversation under a name."""
        self._write(name)
        print_note(f"Kept as {name}; llmasos chat --resume {name} goes on with it.")

    def load(self, name: str) -> None:
        """Go on with a kept conversation. Raises ``RequestError`` where there is none by that name, or it is damaged."""
        path = _path(name)
        try:
            messages = json.loads(path.read_text(encoding="utf-8"))["messages"]
            self._messages = [{"role": str(each["role"]), "content": str(each["content"])} for each in messages]
        except FileNotFoundError:
            raise RequestError(f'There is no conversation "{name}"{did_you_mean(name, _kept())}') from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RequestError(f"The conversation in {path} is damaged; remove the file.") from error
        self._name = name

    def _update(self) -> None:
        if self._name is not None:
            self._write(self._name)

    def _write(self, name: str) -> None:
        path = _path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # What people say is theirs alone to read.
            write_atomically(path, json.dumps({"messages": self._messages}, ensure_ascii=False, indent=1), mode=0o600)
        except OSError as error:
            raise RequestError(f"The conversation cannot be kept in {path}: {error.strerror}.") from error
        self._name = name

    def _read(self) -> str | None:
        prompt = "> " if sys.stdin.isatty() and sys.stdout.isatty() else ""
        lines: list[str] = []
        try:
            line = input(prompt)
            if not line.startswith(_MULTILINE):
                return line
            lines.append(line.removeprefix(_MULTILINE))
            while not lines[-1].endswith(_MULTILINE):
                lines.append(input("... " if prompt else ""))
            lines[-1] = lines[-1].removesuffix(_MULTILINE)
            return "\n".join(lines)
        except EOFError:
            return "\n".join(lines) if lines else None
        except UnicodeDecodeError as error:
            raise RequestError(f"The message is not in UTF-8 ({error.reason}).") from error
        except KeyboardInterrupt:
            print_note("")
            return ""

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
                    print_result(piece, end="")
        except KeyboardInterrupt:
            interrupted = True
            print_note(" [interrupted]")
        except LLMasOSError:
            if pieces:
                print_result()
            else:
                self._messages.pop()
            raise
        else:
            print_result()
        if pieces or not interrupted:
            self._messages.append({"role": "assistant", "content": "".join(pieces)})
        else:
            self._messages.pop()
        return interrupted

    def _fitting(self) -> list[dict[str, str]]:
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
            print_note(f"[The {dropped} oldest turns do not fit the context any more and are left out.]")
        return [*head, *turns]

    def _command(self, text: str) -> bool:
        """Do what a command says; True where the conversation is to end."""
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        if name in ("/exit", "/quit", "/bye"):
            return True
        if name == "/help":
            for command, meaning in _COMMANDS.items():
                print_note(f"  {command:16} {meaning}")
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
            print_note("\n".join(_kept()) or "No conversation is kept.")
        elif name == "/history":
            for each in self._messages:
                print_result(f"{each['role']}: {each['content']}")
        else:
            raise RequestError(f"{name} is no command{did_you_mean(name, [command.split()[0] for command in _COMMANDS])}")
        return False

    def _set(self, text: str) -> None:
        from llmasos.compose.generation_params import GenerationParams

        name, _, value = text.partition(" ")
        if not name:
            print_note(", ".join(f"{key} {value}" for key, value in self._sampling.items()) or "Replies are drawn as the defaults say.")
            return
        try:
            found = json.loads(value)
        except ValueError:
            found = value
        changed = {**self._sampling, name: found}
        GenerationParams.of(changed)
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


@contextlib.contextmanager
def _line_editing() -> Iterator[None]:
    """Editing and history for ``input``, kept from one conversation to the next; nothing where Python lacks readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    file = data_folder() / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        readline.set_history_length(_HISTORY)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
            os.chmod(file, 0o600)
            readline.write_history_file(file)


def _folder() -> Path:
    return data_folder() / "conversations"


def _kept() -> list[str]:
    return sorted(path.stem for path in _folder().glob("*.json")) if _folder().is_dir() else []


def _path(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise RequestError(f'"{name}" cannot name a conversation; use letters, digits, ".", "_" and "-", beginning with a letter or digit.')
    return _folder() / f"{name}.json"
