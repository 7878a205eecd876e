"""The access control: what a server asks of the keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from llmasos_access_keys.failed_attempts import FailedAttempts
from llmasos_access_keys.keys import ALL, Key
from llmasos_access_keys.quotas import Quotas, Reserved
from llmasos_access_keys.register import Register
from llmasos_access_keys.store import Store
from llmasos_hookspecs import AuditEvent, Credentials, Limits, LLMasOSError, NotAuthenticated, Permission, Principal

#: Kinds of resources that have names, of which a key has lists.
_NAMED: Final = frozenset({"model", "task", "tool"})

#: Permission -> the roles that have it on the server, and on a model, a task or a tool that the key may use.
_ON_SERVER: Final = {"use": {"user", "operator", "admin"}, "inspect": {"operator", "admin"}, "administer": {"admin"}}
_ON_NAMED: Final = {"use": {"user", "operator", "admin"}, "inspect": {"operator", "admin"}, "administer": {"operator", "admin"}}


class KeysAccess(Register):
    """Clients are recognised by their keys, which administrators manage. Each answer is from the database: a key that is revoked is refused
    from then on."""

    def __init__(self, store: Store, *, bound: float, failures: int = 60, clock: Callable[[], float] = time.time) -> None:
        """``bound``: seconds after which what a request reserved and never settled is free again. ``failures``: failed authentications of a
        minute that are recorded each."""
        super().__init__(store, clock)
        self._keys = store.keys
        self._log = store.log
        self._failed = FailedAttempts(failures)
        self._clock = clock
        self._quotas = Quotas(store.database, bound=bound, clock=clock)
        store.log.recover()

    def authenticate(self, credentials: Credentials) -> Principal:
        return _principal(self._keys.authenticate(_secret(credentials), self._clock()))

    def recognise(self, credentials: Credentials) -> Principal | None:
        try:
            key = self._keys.recognise(_secret(credentials), self._clock())
        except LLMasOSError:  # the database is locked, which ``authenticate`` waits for, or cannot be used, which it says
            return None
        return None if key is None else _principal(key)

    def allows(self, principal: Principal, permission: Permission, resource: str) -> bool:
        key = self._keys.active(principal.name, self._clock())
        return key is not None and _may(key, permission, resource)

    def reserve(self, principal: Principal, tokens: int) -> Reserved:
        key = self._keys.active(principal.name, self._clock())
        if key is None:
            raise NotAuthenticated("The key was revoked or has expired; ask the administrator of this server for one.")
        return self._quotas.reserve(key, tokens)

    def audit(self, event: AuditEvent) -> None:
        for row in self._failed.rows(event):
            self._log.append(row)


def _secret(credentials: Credentials) -> str:
    return credentials.secret if credentials.scheme == "bearer" else ""


def _principal(key: Key) -> Principal:
    limits = Limits(
        max_new_tokens=key.limits.max_new_tokens,
        concurrency=key.limits.concurrency,
        priority=key.limits.priority,
        weight=key.limits.weight,
    )
    return Principal(name=key.id, tenant=key.tenant, roles=frozenset({key.role}), limits=limits)


def _may(key: Key, permission: str, resource: str) -> bool:
    kind, _, name = resource.partition(":")
    if resource == "server":
        return key.role in _ON_SERVER.get(permission, ())
    listed = kind in _NAMED and bool(name) and (ALL in key.names(kind) or name in key.names(kind))
    return listed and key.role in _ON_NAMED.get(permission, ())
