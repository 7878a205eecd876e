"""The access control ``open``: every client that reaches a server may do everything. Core lets it stand only on the loopback interface."""

from __future__ import annotations

from typing import Final

from llmasos_hookspecs import (
    PERMISSIONS,
    AuditEvent,
    Component,
    Context,
    Credentials,
    NoOptions,
    Permission,
    Principal,
    Reservation,
    hookimpl,
)

#: Everybody.
LOCAL: Final = Principal(name="local", tenant="default", roles=frozenset({"user", "operator", "admin"}))

_KINDS: Final = ("model", "task", "tool")


class Nothing:
    """A reservation where nothing is counted."""

    def settle(self, tokens: int) -> None:
        """Nothing is counted."""

    def release(self) -> None:
        """Nothing is counted."""


class OpenAccess:
    """One principal, whatever a client shows; nothing is counted or recorded."""

    def authenticate(self, credentials: Credentials) -> Principal:
        return LOCAL

    def allows(self, principal: Principal, permission: Permission, resource: str) -> bool:
        kind, _, name = resource.partition(":")
        return permission in PERMISSIONS and (resource == "server" or (kind in _KINDS and bool(name)))

    def reserve(self, principal: Principal, tokens: int) -> Reservation:
        return Nothing()

    def audit(self, event: AuditEvent) -> None:
        """Nothing is recorded."""


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Everybody on this machine may do everything; for servers on the loopback interface.", options=NoOptions)


@hookimpl
def llmasos_create_access(options: NoOptions, context: Context) -> OpenAccess:
    return OpenAccess()
