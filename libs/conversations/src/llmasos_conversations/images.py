"""Images of kept messages: each is kept once, by its SHA-256, as long as a message has it."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import RequestError

#: What version 2 of the tables has beside those of version 1.
TABLES: Final = """
CREATE TABLE images(digest TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE images_of(
    message INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE,
    place INTEGER NOT NULL,
    digest TEXT NOT NULL REFERENCES images,
    PRIMARY KEY(message, place)
);
CREATE INDEX messages_with ON images_of(digest);
CREATE TRIGGER image_unused AFTER DELETE ON images_of
WHEN NOT EXISTS (SELECT 1 FROM images_of WHERE digest = old.digest) BEGIN
    DELETE FROM images WHERE digest = old.digest;
END;
"""


def text_and_images(content: Any) -> tuple[str, list[bytes]]:
    """The text of a message's content, and its images as files. Raises ``RequestError`` for what cannot be kept."""
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    images: list[bytes] = []
    for part in content if isinstance(content, Sequence) else [content]:
        match part:
            case {"type": "text", "text": str() as text}:
                texts.append(text)
            case {"type": "image", "image": bytes() as data}:
                images.append(data)
            case _:
                raise RequestError("A message holds something that is neither text nor the bytes of an image, which cannot be kept.")
    return "\n".join(texts), images


def keep_images(connection: sqlite3.Connection, message: int, images: Iterable[bytes]) -> None:
    """Keep the images of a message by its number."""
    for place, data in enumerate(images):
        digest = hashlib.sha256(data).hexdigest()
        connection.execute("INSERT OR IGNORE INTO images VALUES (?, ?)", (digest, data))
        connection.execute("INSERT INTO images_of VALUES (?, ?, ?)", (message, place, digest))


def digests_of(connection: sqlite3.Connection, conversation: int) -> dict[int, list[str]]:
    """Number of a message -> digests of its images, for the messages of a conversation that have some."""
    rows = connection.execute(
        "SELECT i.message, i.digest FROM images_of i JOIN messages m ON m.id = i.message WHERE m.conversation = ? ORDER BY 1, i.place",
        (conversation,),
    )
    found: dict[int, list[str]] = {}
    for message, digest in rows:
        found.setdefault(message, []).append(digest)
    return found


def with_images(connection: sqlite3.Connection, messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Kept messages as they were asked, their images, as files, before their text."""
    return [_with_images(connection, each) if "images" in each else dict(each) for each in messages]


def _with_images(connection: sqlite3.Connection, message: Mapping[str, Any]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    for digest in message["images"]:
        found = connection.execute("SELECT data FROM images WHERE digest = ?", (digest,)).fetchone()
        if found is None:
            raise RequestError(f"The image {digest[:12]} of this conversation is no longer kept; begin a new one.")
        parts.append({"type": "image", "image": found[0]})
    return {"role": message["role"], "content": [*parts, *([{"type": "text", "text": message["content"]}] if message["content"] else [])]}
