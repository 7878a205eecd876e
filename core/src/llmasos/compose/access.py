"""Access control as the runtime asks it: its errors name the plugin, and what it must do in its own time is done on a thread."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from llmasos.compose.open_access import OpenAccess
from llmasos_hookspecs import (
    Access,
    AuditEvent,
    Credentials,
    KeyRegister,
    LLMasOSError,
    Permission,
    PluginError,
    Principal,
    PromptAccess,
    RequestError,
    Reservation,
)
from llmasos_hookspecs.guarding.edge import crossing, kind_of

_log = logging.getLogger("llmasos.access")


@attrs.frozen(eq=False)
class NamedAccess:
    """An access control, and how messages name it. Where it fails, the answer is no."""

    label: str
    access: Access
    #: Looked for once: to ask whether an object has a protocol's methods takes longer than most access controls take to answer.
    _prompt: PromptAccess | None = attrs.field(init=False)

    @_prompt.default
    def _if_prompt(self) -> PromptAccess | None:
        return self.access if isinstance(self.access, PromptAccess) else None

    @property
    def is_open(self) -> bool:
        """Whether it lets everybody in."""
        return isinstance(self.access, OpenAccess)

    @contextlib.contextmanager
    def register(self, method: str) -> Iterator[KeyRegister]:
        """Its keys and its audit log, of which ``method`` is to be called. Raises ``RequestError`` where it keeps none."""
        if not isinstance(self.access, KeyRegister):
            raise RequestError(f"The {self.label} keeps no keys; name one in [access] that does.")
        with crossing(self.label, method):
            yield self.access

    def authenticate(self, credentials: Credentials) -> Principal:
        with crossing(self.label, "authenticate"):
            found: Any = self.access.authenticate(credentials)
        if not isinstance(found, Principal):
            raise PluginError(f"The {self.label} returned {kind_of(found)} from authenticate, and it must be a Principal.")
        return found

    def recognise(self, credentials: Credentials) -> Principal | None:
        """The client, where the access control knows it without waiting."""
        if self._prompt is None:
            return None
        with crossing(self.label, "recognise"):
            found: Any = self._prompt.recognise(credentials)
        if not isinstance(found, Principal | None):
            raise PluginError(f"The {self.label} returned {kind_of(found)} from recognise, and it must be a Principal or None.")
        return found

    def allows(self, principal: Principal, permission: Permission, resource: str) -> bool:
        with crossing(self.label, "allows"):
            return self.access.allows(principal, permission, resource) is True

    def reserve(self, principal: Principal, tokens: int) -> Reservation:
        with crossing(self.label, "reserve"):
            return self.access.reserve(principal, tokens)

    def audit(self, event: AuditEvent) -> None:
        with crossing(self.label, "audit"):
            self.access.audit(event)


class Errands:
    """Calls in their order on a daemon thread: an engine's loop, which ends requests, does not wait for a database."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: Final = threading.Thread(target=self._run, name="llmasos-access", daemon=True)
        self._thread.start()

    def add(self, call: Callable[[], object]) -> None:
        """Do ``call`` soon; its errors are logged."""
        self._queue.put(call)

    def close(self, seconds: float | None) -> bool:
        """Do what was added, and end; False where that takes longer than ``seconds``."""
        self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except LLMasOSError as error:
                _log.error("%s", error)
            except Exception:
                _log.exception("What a request used could not be recorded.")
