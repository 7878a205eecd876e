"""A client of a server, as its requests carry it: whose they are, what they may ask for, and what they are charged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmasos.compose.access import Errands, NamedAccess
from llmasos.compose.generation_params import DEFAULT_NEW_TOKENS
from llmasos.engine.ticket import Ticket
from llmasos_hookspecs import AuditEvent, Generation, LLMasOSError, Principal, QuotaExceeded, RequestError, Reservation
from llmasos_hookspecs.guarding.changes import Changes

#: What comes with a client's key, and is not its to choose.
_OWN: Final = ("tenant", "priority", "weight")


class Desk:
    """Counts the requests in progress, of each client and in all, and records what they did."""

    def __init__(self, access: NamedAccess) -> None:
        self.access: Final = access
        self.errands: Final = Errands()
        self._changes = Changes()
        self._active: dict[str, int] = {}

    @property
    def active(self) -> int:
        """Requests in progress."""
        with self._changes.lock:
            return sum(self._active.values())

    def begin(self, principal: Principal) -> None:
        """Count a request. Raises ``QuotaExceeded`` where the client has as many as it may."""
        most = principal.limits.concurrency
        with self._changes.lock:
            count = self._active.get(principal.name, 0)
            if most is not None and count >= most:
                raise QuotaExceeded(f"{principal.name} has {count} requests in progress, and may have {most} at once.", 1.0)
            self._active[principal.name] = count + 1

    def end(self, principal: Principal) -> None:
        """A request that was counted has ended."""
        with self._changes.lock:
            self._active[principal.name] -= 1
            if not self._active[principal.name]:
                del self._active[principal.name]
            self._changes.tell()

    def close(self, seconds: float) -> bool:
        """Wait until every request has ended and all of it is recorded; False where that takes longer."""
        end = time.monotonic() + seconds
        ended = self._changes.wait_for(lambda: not self._active, seconds)
        return self.errands.close(max(0.0, end - time.monotonic())) and ended

    def record(self, principal: Principal | None, action: str, resource: str, outcome: str, **details: Any) -> None:
        """Have an event recorded."""
        event = AuditEvent(
            time=time.time(),
            principal="" if principal is None else principal.name,
            tenant="" if principal is None else principal.tenant,
            action=action,
            resource=resource,
            outcome=outcome,
            details=details,
        )
        self.errands.add(lambda: self.access.audit(event))


class Charge:
    """What one request is charged: reserved before it is queued, settled when it has ended.

    Attributes:
        inner: the engine's ticket of the request, once it was queued.
    """

    def __init__(self, desk: Desk, principal: Principal, resource: str) -> None:
        self._desk = desk
        self._principal = principal
        self._resource = resource
        self._reservation: Reservation | None = None
        self._reserved = 0
        self.inner: Ticket[Any] | None = None

    def reserve(self, tokens: int) -> None:
        """Set tokens aside. Raises ``QuotaExceeded``."""
        self._desk.begin(self._principal)
        self._reserved = tokens
        try:
            self._reservation = self._desk.access.reserve(self._principal, tokens)
        except BaseException:
            self._desk.end(self._principal)
            raise

    def sent(self, ticket: Ticket[Any]) -> None:
        """The request was queued."""
        self.inner = ticket
        ticket.add_done_callback(self._done)

    def refused(self, error: BaseException) -> None:
        """The request was not queued."""
        outcome = "denied" if isinstance(error, QuotaExceeded) else "failed"
        self._desk.record(self._principal, "generate", self._resource, outcome, error=str(error))
        self._end(lambda reservation: reservation.release())

    def _done(self) -> None:
        """On the thread that ends the request, which waits for nobody."""
        assert self.inner is not None
        try:
            result = self.inner.result()
        except LLMasOSError as error:
            self._desk.record(self._principal, "generate", self._resource, "failed", error=str(error))
            self._end(lambda reservation: reservation.release())
            return
        used = result.prompt_tokens + len(result.tokens) if isinstance(result, Generation) else self._reserved
        self._desk.record(self._principal, "generate", self._resource, "done", tokens=used)
        self._end(lambda reservation: reservation.settle(used))

    def _end(self, act: Callable[[Reservation], object]) -> None:
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            self._desk.errands.add(lambda: act(reservation))
            self._desk.end(self._principal)  # the last: closing waits for it, and does what was added before


class Client:
    """One principal's use of one model."""

    def __init__(self, desk: Desk, principal: Principal, model: str) -> None:
        self._desk = desk
        self._principal = principal
        self._resource = f"model:{model}"

    def sampling(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Sampling arguments with the client's tenant, priority, weight and bounds. Raises ``RequestError`` where they name these, or ask
        for more tokens than the client may."""
        for name in _OWN:
            if name in given:
                raise RequestError(f'"{name}" comes with the key of a client, and a request cannot choose it; leave it out.', name)
        limits = self._principal.limits
        found = {**given, "tenant": self._principal.tenant, "priority": limits.priority, "weight": limits.weight}
        most, asked = limits.max_new_tokens, given.get("max_new_tokens")
        if most is not None and isinstance(asked, int) and asked > most:
            raise RequestError(f"max_new_tokens is {asked}, and {self._principal.name} may ask for {most}.", "max_new_tokens")
        if most is not None and asked is None:
            found["max_new_tokens"] = most if "max_length" in given else min(most, DEFAULT_NEW_TOKENS)
        return found

    def charge(self) -> Charge:
        """The charge of a new request."""
        return Charge(self._desk, self._principal, self._resource)
