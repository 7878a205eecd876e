"""How one component uses another: ``context.component(kind, use, options)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from llmasos.system.components import LoadedComponent, PluginSet
from llmasos.system.context import HookContext
from llmasos.system.discovery import Registry
from llmasos_config.components import usual_component
from llmasos_hookspecs import KINDS, Component, PluginError, is_sealed, specs
from llmasos_options import structure_options
from llmasos_options.component import ComponentConfig


@attrs.frozen(eq=False, kw_only=True)
class Reached:
    """Implements ``llmasos_hookspecs.ReachedComponent``.

    Attributes:
        caller: name of the component that asked for it.
        context: makes the context of the hook's call.
    """

    caller: str
    loaded: LoadedComponent
    options: Any
    plugins: PluginSet
    context: Callable[[LoadedComponent], HookContext]

    @property
    def label(self) -> str:
        return self.loaded.entry.label

    @property
    def component(self) -> Component:
        return self.loaded.component

    def make(self, **arguments: Any) -> Any:
        hook = KINDS[self.loaded.entry.kind].hooks[0]
        takes = [name for name in inspect.signature(getattr(specs, hook)).parameters if name not in ("options", "context")]
        if sorted(arguments) != sorted(takes):
            raise PluginError(
                f'The plugin "{self.caller}" used the {self.label} with the arguments ({", ".join(arguments)}), and {hook} takes '
                f"({', '.join(takes)}); this is a fault of the plugin."
            )
        context = self.context(self.loaded)
        if any(is_sealed(each) for each in arguments.values()):
            context = attrs.evolve(context, cache=None)  # nothing derived from a sealed model may lie in the clear on the disk
        return self.plugins.call(self.loaded, hook, options=self.options, context=context, **arguments)


@attrs.frozen(eq=False, kw_only=True)
class Reach:
    """Finds components for others. They are imported into ``plugins``; ``context`` makes the context that each gets; ``configured`` tells
    what config names for a kind with a table of its own, and raises ``KeyError`` for other kinds."""

    registry: Registry
    plugins: PluginSet
    context: Callable[[LoadedComponent], HookContext]
    configured: Callable[[str], ComponentConfig] = usual_component

    def __call__(self, caller: str, kind: str, use: str, options: Mapping[str, Any]) -> Reached:
        """The component that ``use`` names, or config where it is empty. Raises ``PluginError`` where it is not installed or is broken, and
        ``ConfigError`` where it refuses the options."""
        config = self._asked(caller, kind, use, options)
        loaded = self.plugins.add(self.registry.find(kind, config.use))
        chosen: Any = structure_options(loaded.component.options, config.options, config.path)
        return Reached(caller=caller, loaded=loaded, options=chosen, plugins=self.plugins, context=self.context)

    def _asked(self, caller: str, kind: str, use: str, options: Mapping[str, Any]) -> ComponentConfig:
        if use:
            return ComponentConfig(use, options, f"{caller}: {kind} {use}")
        try:
            config = self.configured(kind)
        except KeyError:
            raise PluginError(
                f'The plugin "{caller}" asked for the {kind} of the config, which has no table for one; this is a fault of the plugin.'
            ) from None
        return attrs.evolve(config, options={**config.options, **options})
