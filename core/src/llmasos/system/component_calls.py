"""Calls components where there is no pipeline: sources, formats and commands."""

from __future__ import annotations

from typing import Any

import attrs

from llmasos.system.components import LoadedComponent, PluginSet
from llmasos.system.context import HookContext, ProgressSink, SilentSink
from llmasos.system.discovery import Registry, registry
from llmasos.system.reached import Reach
from llmasos_hookspecs import KINDS
from llmasos_model_store.folders import cache_folder
from llmasos_model_store.store import Store


@attrs.frozen(eq=False, kw_only=True)
class ComponentCalls:
    """The installed components, and what each of them may use.

    Attributes:
        more: further fields of every ``HookContext``.
    """

    registry: Registry = attrs.field(factory=registry)
    store: Store = attrs.field(factory=Store)
    offline: bool = False
    allow_pickle: bool = False
    sink: ProgressSink = attrs.field(factory=SilentSink)
    plugins: PluginSet = attrs.field(factory=PluginSet)
    more: dict[str, Any] = attrs.field(factory=dict)

    def context(self, loaded: LoadedComponent) -> HookContext:
        """The context of one hook call."""
        entry = loaded.entry
        return HookContext(
            name=entry.name,
            cache=cache_folder() / KINDS[entry.kind].plural / entry.name,
            store=self.store,
            offline=self.offline,
            allow_pickle=self.allow_pickle,
            sink=self.sink,
            reach=Reach(registry=self.registry, plugins=self.plugins, context=lambda loaded: self.context(loaded)),
            **self.more,
        )

    def call(self, loaded: LoadedComponent, hook: str, **arguments: Any) -> Any:
        """Call a component's hook with a context of its own; raises as ``PluginSet.call`` does."""
        return self.plugins.call(self.plugins.take(loaded), hook, context=self.context(loaded), **arguments)
