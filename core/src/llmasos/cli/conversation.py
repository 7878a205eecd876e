"""A conversation at the terminal: history, commands, interruption, saving and resuming."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmasos.cli.console import print_error, print_json, print_note, print_result
from llmasos.system.folders import data_folder
from llmasos.system.nearest import did_you_mean
from llmasos.system.store import write_atomically
from llmasos_hookspecs import ContextLengthExceeded, LLMasOSError, RequestError

if TYPE_CHECKING:
    from llmasos.model import LanguageModel

_COMMANDS: Final = {
    "/help": "list the commands",
    "/new": "begin anew; the system message stays",
    "/system TEXT": "set the system message, and begin anew",
    "/retry": "answer the last message again",
    "/undo": "take the last message and its reply back",
    "/set NAME VALUE": "change how replies are drawn: temperature, top_p, top_k, seed, max_new_tokens",
    "/save NAME": "keep the conversation",
    "/load NAME": "go on with a kept one",
    "/list": "list the kept ones",
    "/history": "show the conversation",
    "/exit": "end, as Ctrl-D does",
}
_MULTILINE: Final = '"""'
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Conversation:
    """Messages so far, and what the user does with them."""

    def __init__(self, model: LanguageModel, sampling: dict[str, Any], *, system: str | None = None) -> None:
        self._model = model
        self._sampling = sampling
        self._messages: list[dict[str, str]] = []
        self._begin(system)

    def answer_once(self, message: str, *, as_json: bool = False) -> None:
        """Answer one message, and be done."""
        self._messages.append({"role": "user", "content": message})
        if as_json:
            generation = self._model.generate(self._messages, **self._sampling)
            print_json({"reply": generation.text, "finish_reason": generation.finish_reason, "prompt_tokens": generation.prompt_tokens})
        else:
            self._reply()

    def talk(self) -> None:
        """Read messages and commands until the user ends."""
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # gives input() its line editing and history
            print_note('Talk with the model; /help lists the commands, """ begins and ends a message of several lines.')
        while (text := self._read()) is not None:
            if not text.strip():
                continue
            try:
                if text.startswith("/"):
                    if self._command(text.strip()):
                        return
                    continue
                self._messages.append({"role": "user", "content": text})
                self._reply()
            except LLMasOSError as error:
                print_error(str(error))

    def save(self, name: str) -> None:
        """Keep the conversation under a name."""
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"messages": self._messages}, ensure_ascii=False, indent=1))
        print_note(f"Kept as {name}; llmasos chat --resume {name} goes on with it.")

    def load(self, name: str) -> None:
        """Go on with a kept conversation. Raises ``RequestError`` where there is none by that name, or it is damaged."""
        path = _path(name)
        try:
            messages = json.loads(path.read_text(encoding="utf-8"))["messages"]
            self._messages = [{"role": str(each["role"]), "content": str(each["content"])} for each in messages]
        except FileNotFoundError:
            raise RequestError(f'There is no conversation "{name}"{did_you_mean(name, _kept())}') from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"The conversation in {path} is damaged; remove the file.") from error

    def _read(self) -> str | None:
        prompt = "> " if sys.stdin.isatty() else ""
        try:
            line = input(prompt)
            if not line.startswith(_MULTILINE):
                return line
            lines = [line.removeprefix(_MULTILINE)]
            while not lines[-1].endswith(_MULTILINE):
                lines.append(input("... " if prompt else ""))
            lines[-1] = lines[-1].removesuffix(_MULTILINE)
            return "\n".join(lines)
        except EOFError:
            return None
        except KeyboardInterrupt:
            print_note("")
            return ""

    def _reply(self) -> None:
        """Answer the last message, streaming. What was shown of an interrupted reply is kept; a refused message is taken back."""
        pieces: list[str] = []
        try:
            for piece in self._model.stream(self._fitting(), **self._sampling):
                pieces.append(piece)
                print_result(piece, end="")
        except KeyboardInterrupt:
            print_result(" [interrupted]", end="")
        except LLMasOSError:
            if not pieces:
                self._messages.pop()
            raise
        print_result()
        self._messages.append({"role": "assistant", "content": "".join(pieces)})

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
            self.save(rest)
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
        from llmasos.generation_params import GenerationParams

        name, _, value = text.partition(" ")
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
        self._messages = [] if system is None else [{"role": "system", "content": system}]

    def _take_back(self, role: str) -> None:
        if self._messages and self._messages[-1]["role"] == role:
            self._messages.pop()


def _folder() -> Path:
    return data_folder() / "conversations"


def _kept() -> list[str]:
    return sorted(path.stem for path in _folder().glob("*.json")) if _folder().is_dir() else []


def _path(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise RequestError(f'"{name}" cannot name a conversation; use letters, digits, ".", "_" and "-", beginning with a letter or digit.')
    return _folder() / f"{name}.json"
