"""Keys: what they look like, what they may do, and how they are kept."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import attrs

from llmasos_access_keys.database import Database, row_of
from llmasos_hookspecs import NotAuthenticated, RequestError

#: What a key can be: a role may do what those before it may.
ROLES: Final = ("user", "operator", "admin")

#: In a list of models, tasks or tools: all of them.
ALL: Final = "*"

#: A key: the prefix by which scanners find leaked ones, its public part, and 256 random bits.
_KEY: Final = re.compile(r"llmasos_([0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII)
_PUBLIC: Final = re.compile(r"(?:llmasos_)?([0-9a-f]{12})", re.ASCII)
_SECRET_BYTES: Final = 32

#: Compared where the public part is not known, so that such a key takes as long as another.
_NOBODY: Final = bytes(32)

_UNKNOWN: Final = "The key is not valid; ask the administrator of this server for one."


def _positive(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and value < 1:
        raise RequestError(f"{attribute.name} is {value}, and it must be at least 1.")


@attrs.frozen(kw_only=True)
class KeyLimits:
    """Bounds of a key; None: no bound.

    Attributes:
        requests_per_minute: requests that begin within 60 seconds.
        tokens_per_day, tokens_per_month: prompt and new tokens of a day or a month of UTC.
        concurrency: requests at once in one serving process; core keeps it.
        max_new_tokens: of one request; core keeps it.
        priority, weight: as schedulers rank by them.
    """

    requests_per_minute: int | None = attrs.field(default=None, validator=_positive)
    tokens_per_day: int | None = attrs.field(default=None, validator=_positive)
    tokens_per_month: int | None = attrs.field(default=None, validator=_positive)
    concurrency: int | None = attrs.field(default=None, validator=_positive)
    max_new_tokens: int | None = attrs.field(default=None, validator=_positive)
    priority: int = 0
    weight: float = attrs.field(default=1.0)

    @weight.validator
    def _check_weight(self, _attribute: Any, value: float) -> None:
        if not 0.0 < value < float("inf"):
            raise RequestError(f"weight is {value}, and it must be more than 0.")


@attrs.frozen(kw_only=True)
class Key:
    """One key as it is kept, which is without its secret.

    Attributes:
        id: its public part.
        account: what usage is counted under: the id of the key that this one came from by rotation, or its own.
        label: what its administrator calls it.
        tenant: what its requests are charged to.
        role: ``user``, ``operator`` or ``admin``.
        models, tasks, tools: names that it may use; ``*``: all.
        created, expires, revoked: seconds since the epoch; None: never.
        replaced_by: the id of the key that rotation made of it; empty: none.
    """

    id: str
    account: str
    label: str
    tenant: str
    role: str = "user"
    models: tuple[str, ...] = (ALL,)
    tasks: tuple[str, ...] = (ALL,)
    tools: tuple[str, ...] = (ALL,)
    limits: KeyLimits = attrs.field(factory=KeyLimits)
    created: float
    expires: float | None = None
    revoked: float | None = None
    replaced_by: str = ""

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked is not None and self.revoked <= now:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def names(self, kind: str) -> tuple[str, ...]:
        """Names of models, tasks or tools that it may use; nothing of a kind that is not known."""
        return {"model": self.models, "task": self.tasks, "tool": self.tools}.get(kind, ())


class KeyRing:
    """All keys of a database."""

    def __init__(self, database: Database, pepper: bytes) -> None:
        self._database = database
        self._pepper = pepper

    def create(
        self,
        label: str,
        *,
        tenant: str,
        role: str = "user",
        models: Sequence[str] = (ALL,),
        tasks: Sequence[str] = (ALL,),
        tools: Sequence[str] = (ALL,),
        limits: KeyLimits | None = None,
        now: float,
        expires: float | None = None,
    ) -> tuple[Key, str]:
        """A new key, and its text, which is not kept.

        Raises:
            RequestError: the label, the tenant or a name is empty or no text that can be printed, the role is not known, or it expires
                before now.
        """
        for what, text in (("The label", label), ("The tenant", tenant), *(("A name", name) for name in (*models, *tasks, *tools))):
            if not text.strip() or not text.isprintable():
                raise RequestError(f"{what} is {text!r}, and it must be a text that can be printed.")
        if role not in ROLES:
            raise RequestError(f'The role "{role}" is not known; take one of {", ".join(ROLES)}.')
        if expires is not None and expires <= now:
            raise RequestError("The key would have expired already; give a later time.")
        identity = secrets.token_hex(6)
        key = Key(
            id=identity,
            account=identity,
            label=label,
            tenant=tenant,
            role=role,
            models=tuple(models),
            tasks=tuple(tasks),
            tools=tuple(tools),
            limits=limits or KeyLimits(),
            created=now,
            expires=expires,
        )
        with self._database.write() as connection:
            return key, self._insert(connection, key)

    def rotate(self, identity: str, *, now: float, grace: float = 0.0, expires: float | None = None) -> tuple[Key, str]:
        """A new key in place of an active one, with its rights, its limits and what it has used; the old one ends ``grace`` seconds
        from now.

        Raises:
            RequestError: the key is not known, not active, or was rotated before.
        """
        with self._database.write() as connection:
            old = _known(connection, identity)
            if old.state(now) != "active" or old.replaced_by:
                what = f"was replaced by {old.replaced_by}" if old.replaced_by else f"is {old.state(now)}"
                raise RequestError(f"The key {old.id} {what}, so it cannot be rotated; create a new one.")
            new = attrs.evolve(old, id=secrets.token_hex(6), created=now, expires=old.expires if expires is None else expires)
            if new.expires is not None and new.expires <= now:
                raise RequestError("The key would have expired already; give a later time.")
            ends = now + grace if old.expires is None else min(old.expires, now + grace)
            connection.execute("UPDATE keys SET expires = ?, replaced_by = ? WHERE id = ?", (ends, new.id, old.id))
            return new, self._insert(connection, new)

    def revoke(self, identity: str, *, now: float) -> Key:
        """End a key now; one that was revoked before stays as it is. Raises ``RequestError`` where it is not known."""
        with self._database.write() as connection:
            key = _known(connection, identity)
            if key.revoked is None:
                connection.execute("UPDATE keys SET revoked = ? WHERE id = ?", (now, key.id))
            return _known(connection, key.id)

    def all(self) -> list[Key]:
        """Every key, the oldest first."""
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute("SELECT * FROM keys ORDER BY rowid")]

    def find(self, identity: str) -> Key:
        """The key with a public part, with or without its prefix. Raises ``RequestError`` where it is not known."""
        with self._database.read() as connection:
            return _known(connection, identity)

    def active(self, identity: str, now: float) -> Key | None:
        """The key with a public part, if it may be used now."""
        with self._database.read() as connection:
            row = _row(connection, identity)
        return _active(row, now)

    def authenticate(self, text: str, now: float) -> Key:
        """The active key that ``text`` is. Raises ``NotAuthenticated`` with one sentence for everything else."""
        match = _KEY.fullmatch(text)
        if match is None:
            raise NotAuthenticated(_UNKNOWN)
        with self._database.read() as connection:
            row = _row(connection, match[1])
        if (key := self._shown(row, text, now)) is None:
            raise NotAuthenticated(_UNKNOWN)
        return key

    def recognise(self, text: str, now: float) -> Key | None:
        """The active key that ``text`` is, where that can be told without waiting; it too is read from the database each time."""
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        with self._database.glance() as connection:
            if connection is None:
                return None
            row = _row(connection, match[1])
        return self._shown(row, text, now)

    def _shown(self, row: sqlite3.Row | None, text: str, now: float) -> Key | None:
        """The active key in ``row``, where ``text`` is it."""
        same = hmac.compare_digest(_NOBODY if row is None else row["digest"], self._digest(text))
        return _active(row if same else None, now)

    def _digest(self, text: str) -> bytes:
        return hashlib.sha256(self._pepper + text.encode("ascii")).digest()

    def _insert(self, connection: sqlite3.Connection, key: Key) -> str:
        text = f"llmasos_{key.id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        values = {**attrs.asdict(key), "digest": self._digest(text)}
        for name in ("models", "tasks", "tools", "limits"):
            values[name] = json.dumps(values[name])
        connection.execute(
            "INSERT INTO keys VALUES (:id, :digest, :account, :label, :tenant, :role, :models, :tasks, :tools, :limits, :created, :expires,"
            " :revoked, :replaced_by)",
            values,
        )
        return text


def _row(connection: sqlite3.Connection, identity: str) -> sqlite3.Row | None:
    return row_of(connection, "SELECT * FROM keys WHERE id = ?", identity)


def _active(row: sqlite3.Row | None, now: float) -> Key | None:
    """The key in ``row``, if it may be used now."""
    key = None if row is None else _key(row)
    return key if key is not None and key.state(now) == "active" else None


def _known(connection: sqlite3.Connection, identity: str) -> Key:
    match = _PUBLIC.fullmatch(identity)
    row = None if match is None else _row(connection, match[1])
    if row is None:
        # The text may be a whole key, pasted: it is not repeated.
        raise RequestError("No key has that id; `llmasos keys list` shows the id of each, 12 hexadecimal digits.")
    return _key(row)


def _key(row: sqlite3.Row) -> Key:
    values = {name: row[name] for name in row.keys() if name != "digest"}  # noqa: SIM118 - a Row iterates over its values
    for name in ("models", "tasks", "tools"):
        values[name] = tuple(json.loads(values[name]))
    return Key(**{**values, "limits": KeyLimits(**json.loads(values["limits"]))})
