"""What operators and administrators may ask of a scripted runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmasos_hookspecs.access import Permission, Principal
from llmasos_hookspecs.administration import Record
from llmasos_hookspecs.errors import NotAllowed, PluginError, RequestError, ResourceError, UnknownModel


class ScriptedAdministration:
    """Remembers what it was asked to change.

    Attributes:
        permissions: what every principal may do to the server and its models.
        changes: method and arguments of each change, in order.
        in_use: the model cannot be unloaded.
        silent: what ``health`` tells.
        listeners: who listens.
        keeps_keys: there are keys and an audit log.
        key_facts: the keys.
        events: what the audit log holds, the newest first.
        audit_problems: what is wrong with it.
    """

    def __init__(self) -> None:
        self.permissions: set[Permission] = {"use", "inspect"}
        self.changes: list[tuple[Any, ...]] = []
        self.in_use = False
        self.silent: dict[str, float] = {}
        self.listeners: list[Callable[[Record], object]] = []
        self.keeps_keys = True
        self.key_facts: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.audit_problems: list[str] = []

    def resources(self, principal: Principal) -> Mapping[str, Any]:
        self._may(principal, "inspect", "server")
        return {"memory": {"limit": None, "used": 0}, "models": {}}

    def inspect_models(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        self._may(principal, "inspect", "server")
        return [{"name": "default", "state": "loaded", "pinned": False}]

    def plugins(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        self._may(principal, "inspect", "server")
        return [{"kind": "loader", "name": "scripted", "distribution": "kit", "version": "1.0", "problem": ""}]

    def load_model(self, principal: Principal, model: str) -> None:
        self._change(principal, model, "load_model")

    def unload_model(self, principal: Principal, model: str) -> None:
        self._change(principal, model, "unload_model")
        if self.in_use:
            raise ResourceError("The model default is in use by 1 requests.")

    def pin_model(self, principal: Principal, model: str, pinned: bool = True) -> None:
        self._change(principal, model, "pin_model", pinned)

    def use_scheduler(self, principal: Principal, use: str, options: Mapping[str, Any], *, model: str | None = None) -> None:
        self._change(principal, model, "use_scheduler", use, dict(options))
        if use != "fifo":
            raise PluginError(f'No scheduler "{use}" is installed; there is fifo.')

    def reload(self, principal: Principal) -> Sequence[str]:
        self._change(principal, None, "reload")
        return ["server[0]"]

    def list_keys(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        self._may(principal, "administer", "server")
        return self.key_facts

    def create_key(self, principal: Principal, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        self._change(principal, None, "create_key", dict(wanted))
        if not wanted.get("label"):
            raise RequestError("The label is empty, and it must be a text that can be printed.", "label")
        number = len(self.key_facts)
        self.key_facts.append({"tenant": wanted["label"], "role": "user", **wanted, "id": f"{number:012x}", "state": "active"})
        return {**self.key_facts[-1], "key": f"secret-{number}"}

    def rotate_key(self, principal: Principal, key: str) -> Mapping[str, Any]:
        old = self.revoke_key(principal, key)
        return self.create_key(principal, {name: old[name] for name in ("label", "tenant", "role")})

    def revoke_key(self, principal: Principal, key: str) -> Mapping[str, Any]:
        self._change(principal, None, "revoke_key", key)
        for facts in self.key_facts:
            if facts["id"] == key:
                facts["state"] = "revoked"
                return facts
        raise RequestError("No key has that id.")

    def audit_events(self, principal: Principal, last: int) -> Sequence[Mapping[str, Any]]:
        self._may(principal, "administer", "server")
        return self.events[:last]

    def verify_audit(self, principal: Principal) -> Sequence[str]:
        self._may(principal, "administer", "server")
        return self.audit_problems

    def health(self) -> Mapping[str, float]:
        return self.silent

    def listen(self, listener: Callable[[Record], object]) -> Callable[[], None]:
        self.listeners.append(listener)

        def leave() -> None:
            if listener in self.listeners:
                self.listeners.remove(listener)

        return leave

    def _change(self, principal: Principal, model: str | None, *what: Any) -> None:
        self._may(principal, "administer", "server" if model is None else f"model:{model}")
        if model not in (None, "default"):
            raise UnknownModel(f'There is no model "{model}"; there is default.')
        self.changes.append((*what, model))

    def _may(self, principal: Principal, permission: Permission, resource: str) -> None:
        if not isinstance(principal, Principal):
            raise NotAllowed(f"{principal!r} is no principal; give what authenticate returned.")
        if permission not in self.permissions:
            raise NotAllowed(f"{principal.name} may not {permission} {resource}; ask for a key that may.")
