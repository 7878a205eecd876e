"""What tasks share that keep conversations: the input that says what to do with them, and the answer in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from llmasos_conversations.store import ConversationStore, ConversationSummary
from llmasos_hookspecs import RequestError

_ACTIONS: Final = ("send", "list", "show", "delete")


def manage(store: ConversationStore, action: str, name: str, refusal: str) -> dict[str, Any]:
    """``list``, ``show`` or ``delete``, as the fields of a task's output.

    Raises:
        RequestError: a name lacks (``refusal``), or nothing is kept by that name.
    """
    if action == "list":
        return {"conversations": store.summaries()}
    if not name:
        raise RequestError(refusal)
    if action == "show":
        return {"conversation": name, "messages": store.find(name).messages}
    store.delete(name)
    return {"conversation": name}


def action_field(kept: str) -> Any:
    """The input ``action`` of a task that keeps conversations: to send a message, or what ``manage`` does. ``kept`` is what the help
    calls them."""
    return attrs.field(
        default="send",
        validator=attrs.validators.in_(_ACTIONS),
        metadata={"help": f"Send a message, or list, show or delete kept {kept}.", "choices": _ACTIONS},
    )


def in_words(summaries: Iterable[ConversationSummary], text: str, messages: Iterable[Mapping[str, str]]) -> str:
    """A task's output as text for people: the list of conversations, else the reply, else the turns of one conversation."""
    lines = [f"{item.name}  ({item.turns} turns, {item.updated})  {item.first}" for item in summaries]
    return "\n".join(lines) or text or "\n".join(f"{message['role']}: {message['content']}" for message in messages)
