"""A client of a server, as its requests carry it: whose they are, what they may ask for, and what they are charged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos.compose.access import Errands, NamedAccess
from llmasos.compose.generation_params import GenerationParams
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import AuditEvent, Blocked, Generation, LLMasOSError, Principal, QuotaExceeded, Remaining, RequestError, Reservation
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

    def arrive(self, principal: Principal, action: str = "generate") -> Charge:
        """The charge of a request that has just come; ``action``: what is recorded. Raises ``QuotaExceeded`` where the client has as many
        in progress as it may."""
        return Charge(self, principal, action)

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

    def close(self, seconds: float | None) -> bool:
        """Wait until every request has ended and all of it is recorded; False where that takes longer than ``seconds``."""
        end = None if seconds is None else time.monotonic() + seconds
        ended = self._changes.wait_for(lambda: not self._active, seconds)
        return self.errands.close(None if end is None else max(0.0, end - time.monotonic())) and ended

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
    """What one request is charged: it counts from its arrival, its tokens are reserved before it is queued, and settled when it has ended.

    Attributes:
        inner: the engine's tickets of the request, once it was queued.
        left: what the client had left then, where the access control tells.
    """

    def __init__(self, desk: Desk, principal: Principal, action: str) -> None:
        """The request has arrived. Raises ``QuotaExceeded`` where the client has as many requests as it may."""
        desk.begin(principal)
        self._desk = desk
        self._principal = principal
        self._action = action
        self._resource = ""
        self._lock = threading.RLock()
        self._counted = True
        self._reservation: Reservation | None = None
        self._reserved = 0
        self._left = 0
        self.inner: Sequence[Ticket[Any]] = ()
        self.left: Remaining | None = None

    def reserve(self, resource: str, tokens: int) -> None:
        """Set tokens aside for the use of ``resource``. Raises ``QuotaExceeded``."""
        self._resource, self._reserved = resource, tokens
        self._reservation = self._desk.access.reserve(self._principal, tokens)
        left = getattr(self._reservation, "left", None)
        self.left = left if isinstance(left, Remaining) else None

    def sent(self, tickets: Sequence[Ticket[Any]]) -> None:
        """The request was queued, with so many answers."""
        self.inner = tickets
        self._left = len(tickets)
        for ticket in tickets:
            ticket.add_done_callback(self._done)

    def refused(self, resource: str, error: BaseException) -> None:
        """The request was not queued, and that is recorded."""
        outcome = "denied" if isinstance(error, QuotaExceeded) else "failed"
        self._desk.record(self._principal, self._action, resource, outcome, error=str(error))
        self.release()

    def guarded(self, answer: Ticket[Generation]) -> None:
        """Record it where a guard blocks an answer of the request, which was queued."""

        def done() -> None:
            try:
                answer.result()
            except Blocked as error:
                self._desk.record(self._principal, self._action, self._resource, "failed", error=str(error))
            except LLMasOSError:
                return  # of the engine's ticket, and recorded with it

        answer.add_done_callback(done)

    def release(self) -> None:
        """The request was not queued, or has ended: what is reserved is free. Calling it again does nothing."""
        self._end(lambda reservation: reservation.release())

    def _done(self) -> None:
        """On the thread that ends an answer, which waits for nobody."""
        with self._lock:
            self._left -= 1
            if self._left:
                return
        errors: list[LLMasOSError] = []
        prompt = new = 0
        for ticket in self.inner:
            try:
                result = ticket.result()
            except LLMasOSError as error:
                errors.append(error)
                continue
            if isinstance(result, Generation):
                prompt, new = max(prompt, result.prompt_tokens), new + len(result.tokens)
            else:
                prompt = self._reserved
        if errors:
            self._desk.record(self._principal, self._action, self._resource, "failed", error=str(errors[0]))
        else:
            self._desk.record(self._principal, self._action, self._resource, "done", tokens=prompt + new)
        if len(errors) == len(self.inner):
            self.release()
        else:
            self._end(lambda reservation: reservation.settle(prompt + new))

    def _end(self, act: Callable[[Reservation], object]) -> None:
        with self._lock:
            if not self._counted:
                return
            self._counted = False
            reservation, self._reservation = self._reservation, None
        if reservation is not None:
            self._desk.errands.add(lambda: act(reservation))
        self._desk.end(self._principal)  # the last: closing waits for it, and does what was added before


class Client:
    """One principal's use of one model."""

    def __init__(self, desk: Desk, principal: Principal, model: str) -> None:
        self.resource: Final = f"model:{model}"
        self._desk = desk
        self._principal = principal

    def of_model(self, model: str) -> Client:
        """The same principal's use of another model."""
        return Client(self._desk, self._principal, model)

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
        return found

    def params(self, given: Mapping[str, Any]) -> GenerationParams:
        """What a request asks for, within the client's bounds. Raises ``RequestError``."""
        params = GenerationParams.of(self.sampling(given))
        return attrs.evolve(params, most_new_tokens=self._principal.limits.max_new_tokens)

    def charge(self, action: str = "generate") -> Charge:
        """As ``Desk.arrive``."""
        return self._desk.arrive(self._principal, action)
