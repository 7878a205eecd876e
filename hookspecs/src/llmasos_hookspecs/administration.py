"""What operators and administrators may ask of the runtime behind a server: to see what runs, and to change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from llmasos_hookspecs.access import Principal
from llmasos_hookspecs.records import GuardRecord, RequestRecord, RequestStarted, StepRecord

#: What ``Administration.listen`` tells of.
Record = RequestStarted | RequestRecord | StepRecord | GuardRecord


class Administration(Protocol):
    """A part of ``Runtime``. Thread-safe.

    Methods that take a principal check first that it may do it, and record what was done or refused; they raise ``NotAllowed`` where not,
    and ``UnknownModel`` for a model that is not there. What is about one model needs the permission for ``model:NAME``, all else that for
    ``server``. They block; loading a model takes as long as it takes.

    Attributes:
        keeps_keys: the access control is a ``KeyRegister``. Where not, the methods about keys and the audit log raise ``RequestError``.
    """

    @property
    def keeps_keys(self) -> bool: ...

    def resources(self, principal: Principal) -> Mapping[str, Any]:
        """Memory and models in use, as plain data; needs ``inspect``."""
        ...

    def inspect_models(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        """The state, loader, scheduler, queue and memory of each model that the client may inspect, as plain data."""
        ...

    def plugins(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        """The installed components, each with kind, name, distribution, version and, where it cannot be used, the problem; needs
        ``inspect``."""
        ...

    def load_model(self, principal: Principal, model: str) -> None:
        """Load a model now. Needs ``administer``. Raises ``ResourceError`` where it does not fit."""
        ...

    def unload_model(self, principal: Principal, model: str) -> None:
        """Free a model's engine; its next request loads it again. Needs ``administer``. Raises ``ResourceError`` while requests use it."""
        ...

    def pin_model(self, principal: Principal, model: str, pinned: bool = True) -> None:
        """Load a model, and never unload it to make room for another; or allow that again. Needs ``administer``."""
        ...

    def use_scheduler(self, principal: Principal, use: str, options: Mapping[str, Any], *, model: str | None = None) -> None:
        """Switch one model, or with None all of them, to another scheduler; queued and running requests are kept. Needs ``administer``.

        Raises ``PluginError`` or ``ConfigError`` where there is no such scheduler, or it refuses the options.
        """
        ...

    def reload(self, principal: Principal) -> Sequence[str]:
        """Read the config again and use it, without ending a request; returns the paths of what has changed. Needs ``administer``.

        Raises ``ConfigError`` or ``PluginError`` where it is refused, or holds what cannot change without a restart; then nothing is
        changed.
        """
        ...

    def list_keys(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        """The keys of the access control. Needs ``administer``, as the methods after it; they are those of ``KeyRegister``."""
        ...

    def create_key(self, principal: Principal, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """A new key with its secret."""
        ...

    def rotate_key(self, principal: Principal, key: str) -> Mapping[str, Any]:
        """A new key with its secret, in place of another."""
        ...

    def revoke_key(self, principal: Principal, key: str) -> Mapping[str, Any]:
        """End a key at once."""
        ...

    def audit_events(self, principal: Principal, last: int) -> Sequence[Mapping[str, Any]]:
        """The last events of the audit log, the newest first."""
        ...

    def verify_audit(self, principal: Principal) -> Sequence[str]:
        """What is wrong with the audit log; empty: nothing."""
        ...

    def health(self) -> Mapping[str, float]:
        """Model -> seconds since it last ended a step, for each model that has something to compute. For a server's own answers: it tells
        names, so they are not for every client."""
        ...

    def listen(self, listener: Callable[[Record], object]) -> Callable[[], None]:
        """Have ``listener`` told of requests that start, of requests that end, of sampled steps and of guards that changed or blocked a
        text, whether this server, another one, a task or a program asked for them. It is called on a thread of its own, in order, and
        never delays a request. Returns what ends that, and does nothing when it is called again."""
        ...
