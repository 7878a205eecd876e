"""The access contract: who a client is, what it may do, how much it may use, and a record of what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol, runtime_checkable

import attrs

#: What a client can be allowed: to use a model or a task, to see what runs, to change what runs.
Permission = Literal["use", "inspect", "administer"]
#: Every ``Permission``.
PERMISSIONS: Final[tuple[Permission, ...]] = ("use", "inspect", "administer")


@attrs.frozen(kw_only=True)
class Credentials:
    """What a client showed.

    Attributes:
        scheme: how it was shown: ``bearer`` for a key, ``basic``, ``certificate``; empty where it showed nothing.
        secret: the key itself, or the like; never logged.
        client: address of the client, for the record.
    """

    scheme: str = ""
    secret: str = attrs.field(default="", repr=False)
    client: str = ""


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds of a client, which core keeps.

    Attributes:
        max_new_tokens: of one request; None: no bound.
        concurrency: requests at once; None: no bound.
        priority, weight: of its requests, as schedulers rank by them.
    """

    max_new_tokens: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    concurrency: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    priority: int = 0
    weight: float = attrs.field(default=1.0, validator=attrs.validators.gt(0.0))


@attrs.frozen(kw_only=True)
class Principal:
    """A client that was recognised.

    Attributes:
        name: who it is, for the record: the public part of a key.
        tenant: the account that its requests are charged to. It comes from here alone, never from a request.
        roles: what it is: ``user``, ``operator``, ``admin``.
        limits: bounds of its requests.
    """

    name: str
    tenant: str = attrs.field(validator=attrs.validators.min_len(1))
    roles: frozenset[str] = frozenset({"user"})
    limits: Limits = attrs.field(factory=Limits)


@attrs.frozen(kw_only=True)
class AuditEvent:
    """One thing that a client did or tried. It never holds prompts, answers or secrets.

    Attributes:
        time: seconds since the epoch.
        principal: name of the principal; empty where it was not recognised.
        tenant: of the principal.
        action: a verb: ``generate``, ``run``, ``use_scheduler``, ``authenticate``.
        resource: what it was done to: ``model:default``, ``task:translate``.
        outcome: ``allowed``, ``denied``, ``done`` or ``failed``.
        details: plain data: token counts, the sentence of an error.
    """

    time: float
    principal: str
    tenant: str
    action: str
    resource: str
    outcome: str
    details: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Quota:
    """What is left of one limit: ``left`` of ``limit``, which is whole again in ``renewed`` seconds."""

    limit: int
    left: int
    renewed: float


@attrs.frozen(kw_only=True)
class Remaining:
    """What a client has left after a reservation, to be told to it; None: it has no such limit."""

    requests: Quota | None = None
    tokens: Quota | None = None


@runtime_checkable
class Reservation(Protocol):
    """Tokens that are set aside for one request. Exactly one of the two methods counts; what is called after it does nothing.

    A reservation may also have ``left``, a ``Remaining``: what the client has left now.
    """

    def settle(self, tokens: int) -> None:
        """The request has ended and used ``tokens``; the rest of what was reserved is free again."""
        ...

    def release(self) -> None:
        """The request used nothing; all that was reserved is free again."""
        ...


@runtime_checkable
class Access(Protocol):
    """Decides who may do what. Thread-safe, and quick: clients wait for it."""

    def authenticate(self, credentials: Credentials) -> Principal:
        """The client that showed ``credentials``. Raises ``NotAuthenticated`` where nobody did; the message must not say whether a part of
        them was right, nor repeat them."""
        ...

    def allows(self, principal: Principal, permission: Permission, resource: str) -> bool:
        """Whether the client may do that. ``resource``: ``model:NAME``, ``task:NAME``, ``tool:NAME`` or ``server``. What
        it does not know it refuses."""
        ...

    def reserve(self, principal: Principal, tokens: int) -> Reservation:
        """Set aside what a request can use at most, in one step: of several requests at once, none gets tokens that another holds.

        Raises:
            QuotaExceeded: the client has not so many left, with the seconds until it has.
        """
        ...

    def audit(self, event: AuditEvent) -> None:
        """Record an event."""
        ...


@runtime_checkable
class PromptAccess(Protocol):
    """What an ``Access`` may also have that can recognise a client without waiting. A server asks it on its event loop, and then needs no
    thread to refuse a request; thread-safe."""

    def recognise(self, credentials: Credentials) -> Principal | None:
        """As ``authenticate`` at this moment: a client that was refused since is not recognised. None: nobody showed ``credentials``, or
        that cannot be told without waiting for a lock, another process or a network; ``authenticate`` is asked then."""
        ...


@runtime_checkable
class KeyRegister(Protocol):
    """What an ``Access`` that keeps keys may also have, so that administrators manage them through a server. Thread-safe.

    A key is plain data without its secret: at least ``id``, ``label``, ``tenant``, ``role`` and ``state`` (``active`` where it may be
    used); ``created`` and ``expires`` (times of UTC such as ``2027-01-31T12:00:00Z``, or None), ``limits`` (name -> number or None) and
    ``usage`` (period -> ``used`` and ``reserved`` tokens) where they are known.
    """

    def list_keys(self) -> Sequence[Mapping[str, Any]]:
        """Every key, the oldest first."""
        ...

    def create_key(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """A new key, and beside its data its secret as ``key``, which is told this once. ``wanted``: ``label``, and what else the register
        knows. Raises ``RequestError``."""
        ...

    def rotate_key(self, key: str) -> Mapping[str, Any]:
        """A new key in place of the one with the id ``key``, as ``create_key`` gives it; the old one ends. Raises ``RequestError``."""
        ...

    def revoke_key(self, key: str) -> Mapping[str, Any]:
        """End a key at once, and return it. Raises ``RequestError`` where there is none with that id."""
        ...

    def audit_events(self, last: int) -> Sequence[Mapping[str, Any]]:
        """The last events that were recorded, the newest first: the fields of ``AuditEvent``, with ``time`` as text."""
        ...

    def verify_audit(self) -> Sequence[str]:
        """Check the record: a sentence for each place where it was changed; empty where it is as it was written."""
        ...
