"""Conversations that earlier versions kept as one JSON file each."""

from __future__ import annotations

import json
import sqlite3
import warnings
from pathlib import Path
from typing import Any

import attrs

from llmasos_hookspecs import LLMasOSError


@attrs.frozen(kw_only=True)
class OldConversation:
    """What one of the files holds; ``messages`` are role and content."""

    name: str
    system: str
    created: str
    updated: str
    messages: tuple[tuple[str, str], ...]


def old_files(folder: Path) -> list[Path]:
    """The files in a folder that may be conversations of an earlier version."""
    return sorted(folder.glob("*.json"))


def take_over(folder: Path, connection: sqlite3.Connection) -> list[Path]:
    """Put the conversations of files into the database; returns the files that can go once that is committed.

    A file that is no conversation stays as it is, and a warning names it: it may be damaged, or be something else.
    """
    done = []
    for file in old_files(folder):
        try:
            old = read_old(file)
        except LLMasOSError as error:
            warnings.warn(f"{error} It was not taken over into the new store, and stays as it is.", stacklevel=2)
            continue
        _insert(connection, old)
        done.append(file)
    return done


def read_old(file: Path) -> OldConversation:
    """The conversation in a file. Raises ``LLMasOSError`` where it is none, or damaged."""
    try:
        return _read(file)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LLMasOSError(f"{file} is no whole conversation ({str(error) or type(error).__name__}).") from error


def _read(file: Path) -> OldConversation:
    data: Any = json.loads(file.read_text(encoding="utf-8"))
    messages = tuple((str(each["role"]), str(each["content"])) for each in data["messages"])
    return OldConversation(
        name=file.stem,
        system=next((content for role, content in messages[:1] if role == "system"), ""),
        created=str(data.get("created", "")),
        updated=str(data.get("updated", "")),
        messages=tuple(each for each in messages if each[0] != "system"),
    )


def _insert(connection: sqlite3.Connection, old: OldConversation) -> None:
    made = connection.execute(
        "INSERT INTO conversations(name, form, model, system, created, updated) VALUES (?, 'chat', '', ?, ?, ?)",
        (old.name, old.system, old.created, old.updated),
    )
    connection.executemany(
        "INSERT INTO messages(conversation, role, content) VALUES (?, ?, ?)", [(made.lastrowid, *each) for each in old.messages]
    )
