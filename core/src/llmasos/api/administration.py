"""What servers' operators and administrators may ask of a pipeline: ``llmasos_hookspecs.Administration``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from llmasos.api.pipeline import Pipeline
from llmasos.compose.access import NamedAccess
from llmasos.compose.client import Desk
from llmasos.compose.host import ModelHost
from llmasos.system.descriptions import described
from llmasos_hookspecs import KeyRegister, LLMasOSError, NotAllowed, Permission, Principal, Record, RequestError

#: What describes a model and is of no use beyond this machine.
_LOCAL: Final = frozenset({"path", "name", "model"})


class PipelineAdministration:
    """Looks into a pipeline and changes it, for clients that may; each change and each refusal is recorded.

    Attributes:
        reloader: reads the config again and uses it; None: there is none to read.
    """

    def __init__(self, pipeline: Pipeline, access: NamedAccess, desk: Desk) -> None:
        self._pipeline = pipeline
        self._access = access
        self._desk = desk
        self.reloader: Callable[[], Sequence[str]] | None = None

    def resources(self, principal: Principal) -> Mapping[str, Any]:
        self._allow(principal, "inspect", "server", "resources")
        return self._pipeline.resources_in_use()

    def inspect_models(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        found, guards = [], [guard.use for guard in self._pipeline.composer.config.guards]
        for name, host in self._pipeline.hosts.items():
            if self._access.allows(principal, "inspect", f"model:{name}"):
                facts = host.usage() | host.describe()
                found.append({"name": name, "guards": guards, **{key: value for key, value in facts.items() if key not in _LOCAL}})
        return found

    def plugins(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        self._allow(principal, "inspect", "server", "plugins")
        return [
            {**{name: getattr(each.entry, name) for name in ("kind", "name", "distribution", "version")}, "problem": each.problem}
            for each in described(self._pipeline.composer.installed())
        ]

    def load_model(self, principal: Principal, model: str) -> None:
        with self._changing(principal, "load_model", f"model:{model}"):
            self._pipeline.load(model)

    def unload_model(self, principal: Principal, model: str) -> None:
        with self._changing(principal, "unload_model", f"model:{model}"):
            self._host(model).unload_idle()

    def pin_model(self, principal: Principal, model: str, pinned: bool = True) -> None:
        with self._changing(principal, "pin_model", f"model:{model}", pinned=pinned):
            self._host(model).pin(pinned)

    def use_scheduler(self, principal: Principal, use: str, options: Mapping[str, Any], *, model: str | None = None) -> None:
        with self._changing(principal, "use_scheduler", "server" if model is None else f"model:{model}", use=use):
            self._pipeline.use_scheduler({**options, "use": use}, model=model)

    def reload(self, principal: Principal) -> Sequence[str]:
        with self._changing(principal, "reload", "server"):
            if self.reloader is None:
                raise RequestError("This program cannot read its config again; restart it to change its config.")
            return self.reloader()

    @property
    def keeps_keys(self) -> bool:
        return isinstance(self._access.access, KeyRegister)

    def list_keys(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        self._allow(principal, "administer", "server", "list_keys")
        with self._access.register("list_keys") as register:
            return register.list_keys()

    def create_key(self, principal: Principal, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._changing(principal, "create_key", "server") as details, self._access.register("create_key") as register:
            return self._made(details, register.create_key(wanted))

    def rotate_key(self, principal: Principal, key: str) -> Mapping[str, Any]:
        with self._changing(principal, "rotate_key", "server") as details, self._access.register("rotate_key") as register:
            return self._made(details, register.rotate_key(key))

    def revoke_key(self, principal: Principal, key: str) -> Mapping[str, Any]:
        with self._changing(principal, "revoke_key", "server") as details, self._access.register("revoke_key") as register:
            return self._made(details, register.revoke_key(key))

    def audit_events(self, principal: Principal, last: int) -> Sequence[Mapping[str, Any]]:
        self._allow(principal, "administer", "server", "show_audit")
        with self._access.register("audit_events") as register:
            return register.audit_events(last)

    def verify_audit(self, principal: Principal) -> Sequence[str]:
        self._allow(principal, "administer", "server", "verify_audit")
        with self._access.register("verify_audit") as register:
            return register.verify_audit()

    def health(self) -> Mapping[str, float]:
        found = {}
        for name, host in self._pipeline.hosts.items():
            usage = host.usage()
            if usage.get("running") or usage.get("waiting"):
                found[name] = usage["silent"]
        return found

    def listen(self, listener: Callable[[Record], object]) -> Callable[[], None]:
        return self._pipeline.audience.join("listener of a server", listener)

    def _host(self, model: str) -> ModelHost:
        return self._pipeline.host_of(model)

    @staticmethod
    def _made(details: dict[str, Any], facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """The facts of a key that was changed; the record says which one it is, and never its secret."""
        details |= {name: facts.get(name) for name in ("id", "label", "role")}
        return facts

    @contextlib.contextmanager
    def _changing(self, principal: Principal, action: str, resource: str, **details: Any) -> Iterator[dict[str, Any]]:
        """Record a change that is made within, whether it succeeds or not, with details that may grow. Raises ``NotAllowed``."""
        self._allow(principal, "administer", resource, action)
        try:
            yield details
        except LLMasOSError as error:
            self._desk.record(principal, action, resource, "failed", error=str(error), **details)
            raise
        self._desk.record(principal, action, resource, "done", **details)

    def _allow(self, principal: Principal, permission: Permission, resource: str, action: str) -> None:
        if not self._access.allows(principal, permission, resource):
            self._desk.record(principal, action, resource, "denied")
            raise NotAllowed(f"{principal.name} may not {permission} {resource}; ask for a key that may.")
