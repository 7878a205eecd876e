"""What servers' administrators see of keys and of the audit log, and change in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos_access_keys.keys import ALL, Key, KeyLimits
from llmasos_access_keys.quotas import day_of, tokens_of
from llmasos_access_keys.store import Store
from llmasos_access_keys.times import shown, time_of
from llmasos_hookspecs import RequestError

#: Of a new key: names of models, tasks or tools that it may use.
_LISTS: Final = ("models", "tasks", "tools")
_TEXTS: Final = ("label", "tenant", "role", "expires")
#: Limit -> the types that its value may have.
_LIMITS: Final = {field.name: (int, float) if field.name == "weight" else (int,) for field in attrs.fields(KeyLimits)}


class Register:
    """A ``KeyRegister`` of a store."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._now = clock

    def list_keys(self) -> Sequence[Mapping[str, Any]]:
        now = self._now()
        return [self._facts(key, now) for key in self._store.keys.all()]

    def create_key(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """``wanted``: ``label``, and perhaps ``tenant``, ``role``, ``models``, ``tasks``, ``tools``, ``expires`` (as ``--expires``) and the
        fields of ``KeyLimits``."""
        texts, lists, limits = _read(wanted)
        now = self._now()
        label = texts.get("label", "")
        expires = time_of(texts["expires"], now) if texts.get("expires") else None
        key, secret = self._store.keys.create(
            label,
            tenant=texts.get("tenant") or label,
            role=texts.get("role") or "user",
            limits=KeyLimits(**limits),
            now=now,
            expires=expires,
            **{name: lists.get(name) or (ALL,) for name in _LISTS},
        )
        return {**self._facts(key, now), "key": secret}

    def rotate_key(self, key: str) -> Mapping[str, Any]:
        now = self._now()
        new, secret = self._store.keys.rotate(key, now=now)
        return {**self._facts(new, now), "key": secret}

    def revoke_key(self, key: str) -> Mapping[str, Any]:
        now = self._now()
        return self._facts(self._store.keys.revoke(key, now=now), now)

    def audit_events(self, last: int) -> Sequence[Mapping[str, Any]]:
        newest = deque(self._store.log.events(), maxlen=last)
        return [{**event, "row": row, "time": shown(event["time"])} for row, event in reversed(newest)]

    def verify_audit(self) -> Sequence[str]:
        found = self._store.log.verify()
        return [*found.problems, *([f"There are {found.more} problems more."] if found.more else [])]

    def _facts(self, key: Key, now: float) -> dict[str, Any]:
        return {**facts_of(key, now), "usage": usage_of(self._store, key, now)}


def facts_of(key: Key, now: float) -> dict[str, Any]:
    """A key as plain data, without its secret."""
    found = {**attrs.asdict(key), "state": key.state(now)}
    return found | {name: shown(found[name]) for name in ("created", "expires", "revoked")}


def usage_of(store: Store, key: Key, now: float) -> dict[str, dict[str, int]]:
    """Tokens ``used`` and ``reserved`` of this day and this month of UTC."""
    day = day_of(now)
    with store.database.read() as connection:
        counts = {name: tokens_of(connection, key.account, period) for name, period in (("day", day), ("month", day[:7]))}
    return {name: {"used": used, "reserved": reserved} for name, (used, reserved) in counts.items()}


def _read(wanted: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, tuple[str, ...]], dict[str, Any]]:
    """Texts, lists of names, and limits. Raises ``RequestError`` for what is none of them."""
    texts, lists, limits = dict[str, str](), dict[str, tuple[str, ...]](), dict[str, Any]()
    for name, value in wanted.items():
        if name in _TEXTS:
            if not isinstance(value, str):
                raise RequestError(f"{name} must be a text.", name)
            texts[name] = value
        elif name in _LISTS:
            if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(each, str) for each in value):
                raise RequestError(f"{name} must be a list of texts.", name)
            lists[name] = tuple(value)
        elif name in _LIMITS:
            if isinstance(value, bool) or not isinstance(value, _LIMITS[name]):
                raise RequestError(f"{name} must be a{' whole' if _LIMITS[name] == (int,) else ''} number.", name)
            limits[name] = value
        else:
            raise RequestError(f"A key has no {name[:100]!r}; it has {', '.join((*_TEXTS, *_LISTS, *_LIMITS))}.", name)
    return texts, lists, limits
