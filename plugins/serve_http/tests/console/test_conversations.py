"""Conversations that the page keeps on the server."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmasos_conversations.store import ConversationStore
from llmasos_hookspecs.testing.scripted_runtime import KEY

HELLO = {"role": "user", "content": "Hello otters"}
ANSWER = {"role": "assistant", "content": "They wave."}
#: First bytes of files of images.
HEADS = {"png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF89a"}
SVG = f"data:image/svg+xml;base64,{base64.b64encode(b'<svg onload=alert(1)>').decode()}"


@pytest.fixture
def ask(client: Callable[..., Any]) -> Callable[..., Any]:
    made = client()
    return lambda path, body, **headers: made.post(f"/console/conversations{path}", body, **headers).json()


def test_a_conversation_is_kept_where_chat_keeps_its_own(ask: Callable[..., Any], home: Path) -> None:
    label = ask("", {"messages": [HELLO, ANSWER], "model": "default", "system": "Be brief."})["label"]
    kept = ConversationStore(home / "data" / "conversations").find(label)
    assert (list(kept.messages), kept.model, kept.system) == ([HELLO, ANSWER], "default", "Be brief.")
    assert ask("/open", {"label": label})["messages"] == [HELLO, ANSWER]


def test_what_follows_is_added_and_another_branch_replaces_what_it_differs_in(ask: Callable[..., Any]) -> None:
    label = ask("", {"messages": [HELLO, ANSWER]})["label"]
    more = [HELLO, ANSWER, {"role": "user", "content": "And sleep?"}, {"role": "assistant", "content": "On their backs."}]
    assert ask("", {"label": label, "messages": more})["label"] == label
    assert ask("/open", {"label": label})["messages"] == more
    branch = [HELLO, {"role": "assistant", "content": "They dive."}]
    ask("", {"label": label, "messages": branch})
    assert ask("/open", {"label": label})["messages"] == branch


def test_every_word_of_a_search_is_looked_for_and_a_conversation_is_listed_once(ask: Callable[..., Any]) -> None:
    first = ask("", {"messages": [HELLO, ANSWER, {"role": "user", "content": "otters again"}, ANSWER]})["label"]
    ask("", {"messages": [{"role": "user", "content": "天气很好"}, ANSWER]})
    assert [each["label"] for each in ask("/search", {"query": "otters"})["data"]] == [first]
    assert len(ask("/search", {"query": "天气"})["data"]) == 1
    assert len(ask("/search", {"query": " "})["data"]) == 2
    assert ask("/search", {"query": "otters bears"})["data"] == []


def test_a_key_sees_its_own_conversations_alone(ask: Callable[..., Any]) -> None:
    label = ask("", {"messages": [HELLO]})["label"]
    assert ask("/search", {}, x_api_key=KEY)["data"] == []
    ask("", {"messages": [HELLO, ANSWER]}, x_api_key=KEY)
    assert len(ask("/search", {}, x_api_key=KEY)["data"]) == 1
    assert [each["label"] for each in ask("/search", {})["data"]] == [label]


def test_a_removed_conversation_is_gone(ask: Callable[..., Any], client: Callable[..., Any]) -> None:
    label = ask("", {"messages": [HELLO]})["label"]
    ask("/delete", {"label": label})
    assert ask("/search", {})["data"] == []
    status, error = client().refusal("/console/conversations/open", {"label": label})
    assert (status, error["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": "no"}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages"),
        ({"messages": [{**HELLO, "images": "no"}]}, "messages"),
        ({"messages": [{**HELLO, "images": [SVG]}]}, "messages"),
        ({"messages": [{**HELLO, "images": ["https://example.org/a.png"]}]}, "messages"),
        ({"messages": [{**HELLO, "images": ["data:image/png;base64,%%%"]}]}, "messages"),
        ({"messages": [{**ANSWER, "images": ["data:image/png;base64,iVBORw0KGgo="]}]}, "messages"),
        ({"messages": [], "label": 7}, "label"),
        ({"messages": [], "model": []}, "model"),
    ],
)
def test_what_is_no_conversation_is_refused(body: Any, param: str, client: Callable[..., Any]) -> None:
    status, error = client().refusal("/console/conversations", body)
    assert (status, error["param"]) == (400, param)


def test_where_nothing_is_kept_there_are_no_such_routes(client: Callable[..., Any]) -> None:
    assert client(conversations=False).post("/console/conversations/search", {}).status_code == 404


def test_images_are_kept_with_their_message_and_given_back(ask: Callable[..., Any], home: Path) -> None:
    """Once each, as files, where ``llmasos chat`` keeps its own; a branch that differs in an image alone is another."""
    png, gif = (f"data:image/{kind};base64,{base64.b64encode(head + b'rest').decode()}" for kind, head in HEADS.items())
    messages = [{**HELLO, "images": [png, gif]}, ANSWER, {"role": "user", "content": "", "images": [png]}]
    label = ask("", {"messages": messages})["label"]
    assert ask("/open", {"label": label})["messages"] == messages
    store = ConversationStore(home / "data" / "conversations")
    (message, _, alone) = store.asked(store.find(label).messages)
    assert [part.get("image", part.get("text")) for part in message["content"]] == [
        HEADS["png"] + b"rest", HEADS["gif"] + b"rest", "Hello otters"
    ]  # fmt: skip
    assert alone["content"] == [{"type": "image", "image": HEADS["png"] + b"rest"}]
    numbers = store.find(label).numbers
    ask("", {"label": label, "messages": [*messages, ANSWER]})
    assert store.find(label).numbers[:3] == numbers, "what is the same stays as it is"
    other = [{**HELLO, "images": [gif]}, ANSWER]
    ask("", {"label": label, "messages": other})
    assert ask("/open", {"label": label})["messages"] == other
