"""What servers' operators and administrators may ask of a pipeline: ``llmasos_hookspecs.Administration``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from llmasos.api.pipeline import Pipeline
from llmasos.compose.access import NamedAccess
from llmasos.compose.client import Desk
from llmasos.compose.host import ModelHost
from llmasos_hookspecs import LLMasOSError, NotAllowed, Permission, Principal, Record, RequestError

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
        found = []
        for name, host in self._pipeline.hosts.items():
            if self._access.allows(principal, "inspect", f"model:{name}"):
                facts = host.usage() | host.describe()
                found.append({"name": name, **{key: value for key, value in facts.items() if key not in _LOCAL}})
        return found

    def plugins(self, principal: Principal) -> Sequence[Mapping[str, Any]]:
        self._allow(principal, "inspect", "server", "plugins")
        return [
            {"kind": entry.kind, "name": entry.name, "distribution": entry.distribution, "version": entry.version}
            for entry in self._pipeline.composer.installed()
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

    @contextlib.contextmanager
    def _changing(self, principal: Principal, action: str, resource: str, **details: Any) -> Iterator[None]:
        """Record a change that is made within, whether it succeeds or not. Raises ``NotAllowed``."""
        self._allow(principal, "administer", resource, action)
        try:
            yield
        except LLMasOSError as error:
            self._desk.record(principal, action, resource, "failed", error=str(error), **details)
            raise
        self._desk.record(principal, action, resource, "done", **details)

    def _allow(self, principal: Principal, permission: Permission, resource: str, action: str) -> None:
        if not self._access.allows(principal, permission, resource):
            self._desk.record(principal, action, resource, "denied")
            raise NotAllowed(f"{principal.name} may not {permission} {resource}; ask for a key that may.")
