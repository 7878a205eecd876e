"""Saved conversations: one JSON file each, written atomically."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import attrs

from llmasos_hookspecs import LLMasOSError, RequestError
from llmasos_hookspecs.atomic import write_atomically
from llmasos_task_kit.prompting import Message

_ACTIONS: Final = ("send", "list", "show", "delete")

# Letters of any script; nothing that a file system reads as a path, a hidden file or a device.
_NAME: Final = re.compile(r"[\w][\w .\-]{0,99}(?<![ .])", re.UNICODE)


@attrs.frozen(kw_only=True)
class Conversation:
    """One dialogue. ``messages`` alternate between user and assistant; times are ISO 8601 in UTC."""

    name: str
    system: str = ""
    created: str = ""
    updated: str = ""
    messages: tuple[Message, ...] = ()

    def instructions(self) -> list[Message]:
        """The system message, where there is one."""
        return [{"role": "system", "content": self.system}] if self.system else []


@attrs.frozen(kw_only=True)
class ConversationSummary:
    """A kept conversation as a list shows it."""

    name: str
    turns: int
    updated: str
    first: str


class ConversationFolder:
    """A folder of kept conversations, safe to share between threads and processes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def chosen(cls, option: str, kind: str = "conversations") -> Self:
        """The folder that a task's option names; empty: the user's own for that kind of conversation."""
        return cls(Path(option).expanduser() if option else default_folder().with_name(kind))

    def manage(self, action: str, name: str, refusal: str) -> dict[str, Any]:
        """``list``, ``show`` or ``delete``, as the fields of a task's output. Raises ``RequestError(refusal)`` where a name lacks."""
        if action == "list":
            return {"conversations": self.summaries()}
        if not name:
            raise RequestError(refusal)
        if action == "show":
            return {"conversation": name, "messages": self.load(name).messages}
        self.delete(name)
        return {"conversation": name}

    def names(self) -> tuple[str, ...]:
        """Names of all kept conversations, in order."""
        return tuple(sorted(file.stem for file in self._path.glob("*.json") if _NAME.fullmatch(file.stem)))

    def summaries(self) -> tuple[ConversationSummary, ...]:
        """All kept conversations, the one used last first."""
        found = [self.load(name) for name in self.names()]
        found.sort(key=lambda conversation: conversation.updated, reverse=True)
        return tuple(
            ConversationSummary(
                name=item.name,
                turns=len(item.messages) // 2,
                updated=item.updated,
                first=item.messages[0]["content"][:80] if item.messages else "",
            )
            for item in found
        )

    def has(self, name: str) -> bool:
        """Whether a conversation called ``name`` is kept."""
        return self._file(name).is_file()

    def load(self, name: str) -> Conversation:
        """The conversation called ``name``, or an empty one if none is saved. Raises ``LLMasOSError`` if its file is damaged."""
        file = self._file(name)
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            messages = tuple({"role": str(item["role"]), "content": str(item["content"])} for item in data["messages"])
            system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
            return Conversation(
                name=name,
                system=system,
                created=str(data.get("created", "")),
                updated=str(data.get("updated", "")),
                messages=tuple(message for message in messages if message["role"] != "system"),
            )
        except FileNotFoundError:
            return Conversation(name=name)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise LLMasOSError(f"The conversation file {file} is damaged ({error}): move it away to start a new one.") from error

    def append(self, name: str, messages: Iterable[Message], *, system: str = "") -> Conversation:
        """Append messages to a conversation, creating it if necessary, and return the result.

        The file is read again under a lock, so that turns added by another process are kept. Raises ``LLMasOSError`` if it cannot be
        written, and then leaves it unchanged.
        """
        return self._write(
            name, lambda before: attrs.evolve(before, system=system or before.system, messages=(*before.messages, *messages))
        )

    def replace(self, name: str, messages: Iterable[Message], *, system: str = "") -> Conversation:
        """Keep these messages in place of those of a conversation, creating it if necessary; raises as ``append`` does."""
        return self._write(name, lambda before: attrs.evolve(before, system=system, messages=tuple(messages)))

    def _write(self, name: str, change: Callable[[Conversation], Conversation]) -> Conversation:
        from filelock import FileLock

        file = self._file(name)
        with _faults(file):
            self._path.mkdir(parents=True, exist_ok=True)
            with FileLock(self._path / f".{name}.lock"):
                before = self.load(name)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                after = attrs.evolve(change(before), created=before.created or now, updated=now)
                write_atomically(file, _as_json(after), mode=0o600)
                return after

    def delete(self, name: str) -> None:
        """Remove a conversation; raises ``RequestError`` where none of that name is kept."""
        try:
            self._file(name).unlink()
        except FileNotFoundError:
            kept = ", ".join(self.names()) or "none"
            raise RequestError(f"There is no conversation called {name!r} in {self._path}; kept: {kept}.") from None

    def _file(self, name: str) -> Path:
        if not _NAME.fullmatch(name) or len(name.encode()) > 200:
            raise RequestError(
                f'"{name}" cannot name a conversation; take 1 to 100 letters, digits, spaces, dots, hyphens or underscores, '
                "beginning with a letter or digit."
            )
        return self._path / f"{name}.json"


def action_field(kept: str) -> Any:
    """The input ``action`` of a task that keeps conversations: to send a message, or what ``ConversationFolder.manage`` does. ``kept`` is
    what the help calls them."""
    return attrs.field(
        default="send",
        validator=attrs.validators.in_(_ACTIONS),
        metadata={"help": f"Send a message, or list, show or delete kept {kept}.", "choices": _ACTIONS},
    )


def in_words(summaries: Iterable[ConversationSummary], text: str, messages: Iterable[Message]) -> str:
    """A task's output as text for people: the list of conversations, else the reply, else the turns of one conversation."""
    lines = [f"{item.name}  ({item.turns} turns, {item.updated})  {item.first}" for item in summaries]
    return "\n".join(lines) or text or "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _as_json(conversation: Conversation) -> str:
    # The system message stands among the others, as everywhere else where conversations are files.
    values = {
        "created": conversation.created,
        "updated": conversation.updated,
        "messages": [*conversation.instructions(), *conversation.messages],
    }
    return json.dumps(values, ensure_ascii=False, indent=1)


@contextmanager
def _faults(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LLMasOSError(
            f"{file} cannot be written ({error.strerror or error}), so this turn is not kept; make room for it, or choose another folder."
        ) from error


def default_folder() -> Path:
    """Where conversations are kept unless an option says otherwise: with the user's data, where ``llmasos chat`` keeps its own."""
    home = os.environ.get("LLMASOS_HOME")
    if home:
        return Path(home).expanduser() / "data" / "conversations"
    from platformdirs import user_data_path

    return user_data_path("llmasos", appauthor=False) / "conversations"
