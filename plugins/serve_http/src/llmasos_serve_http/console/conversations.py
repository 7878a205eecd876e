"""The conversations that the page keeps: in the store of ``llmasos chat`` for the user of this machine, apart for the owner of each key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs
from starlette.routing import BaseRoute, Route

from llmasos_conversations.store import Conversation, ConversationStore, Message, default_folder
from llmasos_hookspecs import RequestError
from llmasos_serve_http.call import Call
from llmasos_serve_http.clients import credentials_of
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.fields import shown
from llmasos_serve_http.images import file_of, url_of
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import TEXT, answer, body, listed

R = TypeVar("R")

#: Conversations that a list shows.
_MOST: Final = 200

#: ``images``: those of a message of the user, as ``data:`` URLs; left out where there are none.
_MESSAGE: Final = answer(role={"enum": ["user", "assistant"]}, content=TEXT)
_MESSAGE["properties"]["images"] = {"type": "array", "items": TEXT}
_MESSAGES: Final = {"type": "array", "items": _MESSAGE}
_LABEL: Final = answer(label=TEXT)
_KEEP: Final = Operation(
    body=body({"label": TEXT, "model": TEXT, "system": TEXT, "messages": _MESSAGES}, required=["messages"]), answer=_LABEL
)
_SEARCH: Final = Operation(body=body({"query": TEXT}), answer=listed(answer(label=TEXT, updated=TEXT, text=TEXT)))
_OPEN: Final = Operation(
    body=body({"label": TEXT}, required=["label"]), answer=answer(label=TEXT, model=TEXT, system=TEXT, messages=_MESSAGES)
)
_DELETE: Final = Operation(body=body({"label": TEXT}, required=["label"]), answer=_LABEL)


@attrs.frozen
class Given:
    """A message that the page has kept; ``images`` are their files."""

    role: str
    content: str
    images: tuple[bytes, ...] = ()

    def kept(self) -> Message:
        """As the store gives it back."""
        digests = [hashlib.sha256(each).hexdigest() for each in self.images]
        return {"role": self.role, "content": self.content, **({"images": digests} if digests else {})}

    def message(self) -> Message:
        """As the store takes it."""
        if not self.images:
            return {"role": self.role, "content": self.content}
        images = [{"type": "image", "image": each} for each in self.images]
        return {"role": self.role, "content": [*images, *([{"type": "text", "text": self.content}] if self.content else [])]}


class Conversations:
    """Keeps, finds and removes the conversations of who asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission. What identifies a conversation is in bodies, because addresses are logged."""
        for path, handle, operation in (
            ("", self.keep, _KEEP),
            ("/search", self.search, _SEARCH),
            ("/open", self.open, _OPEN),
            ("/delete", self.delete, _DELETE),
        ):
            guarded = Guarded(self._service, "use", OpenAIDialect(), handle, operation=operation)
            yield Route(f"/console/conversations{path}", guarded, methods=["POST"])

    async def keep(self, call: Call) -> None:
        """Keep ``messages`` as the conversation ``label``, or as a new one; what it held beyond them is replaced."""
        found = await call.fields()
        messages = _messages(found.get("messages"))
        label, model, system = (_text(found, name) for name in ("label", "model", "system"))
        await call.reply({"label": await self._with(call, lambda store: _keep(store, label, messages, model, system))})

    async def search(self, call: Call) -> None:
        """The conversations that hold every word of ``query``, or all; those used last first."""
        query = _text(await call.fields(), "query")
        data = await self._with(call, lambda store: list(_found(store, query) if query.strip() else _all(store)))
        await call.reply({"object": "list", "data": data})

    async def open(self, call: Call) -> None:
        """The messages of one."""
        label = _text(await call.fields(), "label", needed=True)
        await call.reply(await self._with(call, lambda store: _opened(store, label)))

    async def delete(self, call: Call) -> None:
        """Remove one."""
        label = _text(await call.fields(), "label", needed=True)
        await self._with(call, lambda store: store.delete(label))
        await call.reply({"label": label})

    async def _with(self, call: Call, action: Callable[[ConversationStore], R]) -> R:
        store = store_of(call)
        return await self._service.threads.call(lambda: action(store))


def store_of(call: Call) -> ConversationStore:
    """The store of who asks: without a key that is who started the server, whose ``llmasos chat`` has the same."""
    folder = default_folder()
    if credentials_of(call.headers, call.client).secret:
        owner = f"{call.known.tenant}\0{call.known.name}".encode()
        folder = folder.with_name("conversations-of-keys") / hashlib.sha256(owner).hexdigest()[:32]
    return ConversationStore(folder)


def _keep(store: ConversationStore, label: str, messages: Sequence[Given], model: str, system: str) -> str:
    kept = store.find(label) if label else Conversation()
    same = 0
    while same < min(len(messages), len(kept.messages)) and messages[same].kept() == kept.messages[same]:
        same += 1
    if same < len(kept.numbers):
        store.take_back(kept.numbers[same:])
    number, _ = store.add(kept.number or None, [each.message() for each in messages[same:]], system=system, model=model)
    return kept.name or str(number)


def _opened(store: ConversationStore, label: str) -> dict[str, Any]:
    found = store.find(label)
    messages = [_shown(kept, asked) for kept, asked in zip(found.messages, store.asked(found.messages), strict=True)]
    return {"label": found.label, "model": found.model, "system": found.system, "messages": messages}


def _shown(kept: Message, asked: Message) -> dict[str, Any]:
    """A kept message as the page shows it; ``asked`` has the files of its images."""
    if "images" not in kept:
        return kept
    return {**kept, "images": [url_of(part["image"]) for part in asked["content"] if part["type"] == "image"]}


def _all(store: ConversationStore) -> Iterator[Mapping[str, str]]:
    for each in store.summaries(_MOST):
        yield {"label": each.name, "updated": each.updated, "text": each.first}


def _found(store: ConversationStore, query: str) -> Iterator[Mapping[str, str]]:
    seen = set()
    for each in store.search(query, _MOST):
        if each.conversation not in seen:
            seen.add(each.conversation)
            yield {"label": each.conversation, "updated": each.updated, "text": each.excerpt}


def _text(found: Mapping[str, Any], name: str, *, needed: bool = False) -> str:
    value = found.get(name, "")
    if not isinstance(value, str) or (needed and not value):
        raise RequestError(f"{name} is {shown(value)}, and it must be a text.", name)
    return value


def _messages(value: Any) -> list[Given]:
    if not isinstance(value, list):
        raise RequestError(f"messages is {shown(value)}, and it must be an array.", "messages")
    return [_message(each) for each in value]


def _message(value: Any) -> Given:
    images = value.get("images", []) if isinstance(value, Mapping) else None
    match value:
        case {"role": "user" | "assistant" as role, "content": str() as content} if isinstance(images, list) and (
            role == "user" or not images
        ):
            return Given(role, content, tuple(file_of(each, "messages") for each in images))
    raise RequestError(
        "Each of messages must have a role, user or assistant, and a content, a text; one of the user may have images, an array.",
        "messages",
    )
