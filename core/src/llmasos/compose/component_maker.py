"""Makes what a pipeline's config names: policies, suites, placements, guards, access control, servers, observers and tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from llmasos.compose.access import NamedAccess
from llmasos.compose.formats import Formats, formats
from llmasos.compose.running_model import Policy
from llmasos.system.bounds import Bounds
from llmasos.system.components import LoadedComponent, PluginSet
from llmasos.system.context import HookContext, ProgressSink
from llmasos.system.discovery import InstalledComponent, Registry
from llmasos.system.reached import Reach
from llmasos_config import ComponentConfig, Config
from llmasos_config.catalog import usual_suites
from llmasos_guards.guards import Guards
from llmasos_guards.named_guard import NamedGuard
from llmasos_hookspecs import KINDS, GuardRecord, Placement, QueueBounds, ReachedComponent, Runtime, Server, Task
from llmasos_model_store.folders import working_cache_folder
from llmasos_model_store.store import Store
from llmasos_options import fields_of, structure_options
from llmasos_plugin_calls.observer import Observer

if TYPE_CHECKING:
    from llmasos.acceleration.suites import NamedSuite

#: Used where a scheduler's options have no such field.
MAX_SEQUENCES: Final = 8
_STEP_TOKENS: Final = 512


@attrs.frozen
class _Made:
    """What a component's hook made, with the component and its options."""

    value: Any
    component: LoadedComponent
    options: Any

    @property
    def label(self) -> str:
        return self.component.entry.label


class ComponentMaker:
    """The components of one pipeline, each imported once.

    Attributes:
        config: of the pipeline.
        bounds: of calls of its plugins.
        plugins: those that were imported.
    """

    def __init__(self, config: Config, *, registry: Registry, store: Store, sink: ProgressSink) -> None:
        self.config: Final = config
        self.bounds: Final = Bounds.of(config.resources)
        self.plugins: Final = PluginSet((), self.bounds)
        self._registry = registry
        self._store = store
        self._sink = sink

    def component(self, kind: str, use: str) -> LoadedComponent:
        """The component that config means by ``use``, imported once. Raises ``PluginError``."""
        return self.plugins.add(self._registry.find(kind, use))

    def installed(self) -> tuple[InstalledComponent, ...]:
        """Every installed component, from metadata alone."""
        return self._registry.entries()

    def formats(self, allow_pickle: bool = False) -> Formats:
        """The formats that the pipeline reads."""
        return formats(
            self.config.formats,
            registry=self._registry,
            store=self._store,
            offline=self.config.offline,
            allow_pickle=allow_pickle,
            sink=self._sink,
            plugins=self.plugins,
        )

    def policy(self, config: ComponentConfig) -> Policy:
        """A new policy of the scheduler that config names."""
        made = self._make("scheduler", config)
        return Policy(
            policy=made.value,
            max_sequences=getattr(made.options, "max_sequences", None) or MAX_SEQUENCES,
            step_tokens=getattr(made.options, "step_tokens", None) or _STEP_TOKENS,
            label=made.label,
            bounds=made.options if isinstance(made.options, QueueBounds) else None,
        )

    def suites(self, configs: Sequence[ComponentConfig]) -> tuple[NamedSuite, ...]:
        """The suites that ``configs`` name, in that order."""
        from llmasos.acceleration.suites import NamedSuite  # a model that nobody measures does not pay for it

        made = [self._make("suite", config) for config in configs]
        return tuple(NamedSuite(name=each.component.entry.name, label=each.label, suite=each.value) for each in made)

    def usual_suites(self, *, timed: bool = True, **given: Any) -> tuple[NamedSuite, ...]:
        """The suites that measure where the user names none, then those that config names; a usual one that it names has its options.

        ``given`` are options for each usual suite that has them. Raises ``PluginError`` where a suite is not installed, with the package.
        """
        own = {config.use.rpartition(":")[2]: config for config in self.config.suites}
        usual = [(own.pop(name, ComponentConfig(name, path=f"suites.{name}")), is_timed) for name, is_timed in usual_suites()]
        chosen = []
        for config in (config for config, is_timed in usual if timed or not is_timed):
            keys = {field.key for field in fields_of(self.component("suite", config.use).component.options)}
            more = {key: value for key, value in given.items() if value is not None and key in keys}
            chosen.append(attrs.evolve(config, options={**config.options, **more}))
        return self.suites([*chosen, *own.values()])

    def placement(self, config: ComponentConfig) -> tuple[Placement, str]:
        """A new placement as config says, and its label."""
        made = self._make("placement", config)
        return made.value, made.label

    def guards(self, fired: Callable[[GuardRecord], None] | None = None) -> Guards:
        """The guards that config names, in their order; ``fired`` is told of what they change and block."""
        made = [NamedGuard(each.label, each.value, config.use) for config in self.config.guards for each in [self._make("guard", config)]]
        return Guards(made, timeout=self.config.resources.guard_timeout, fired=fired)

    def access(self) -> NamedAccess:
        """Who may use the servers."""
        made = self._make("access", self.config.access)
        return NamedAccess(made.label, made.value)

    def server(self, config: ComponentConfig, runtime: Runtime) -> tuple[Server, str]:
        """A server as config says, and its label."""
        made = self._make("server", config, runtime=runtime)
        return made.value, made.label

    def observers(self) -> tuple[Observer, ...]:
        """The observers that config names, each with a queue and a thread of its own."""
        found = []
        for config in self.config.observers:
            component = self.component("observer", config.use)
            options: Any = structure_options(component.component.options, config.options, config.path)
            tell = functools.partial(self.plugins.call, component, options=options, context=self.context(component))
            hooks = [hook for hook in KINDS["observer"].hooks if component.implements(hook)]
            found.append(Observer(component.entry.label, tell, hooks))
        return tuple(found)

    def options(self, kind: str, config: ComponentConfig) -> Any:
        """The options that config gives a component, as its own class. Raises ``ConfigError``."""
        return structure_options(self.component(kind, config.use).component.options, config.options, config.path)

    def task(self, config: ComponentConfig) -> Task:
        """The task that config names."""
        from llmasos_plugin_calls.guarded_task import guarded  # a model that runs no task does not pay for it

        made = self._make("task", config)
        return guarded(made.value, made.label, self.bounds.task)

    def reach(self, caller: str, kind: str, use: str, options: Mapping[str, Any]) -> ReachedComponent:
        """A component for another, or for the one that config calls ``caller``. Raises ``PluginError`` or ``ConfigError``."""
        find = Reach(registry=self._registry, plugins=self.plugins, context=self.context, configured=self.config.configured)
        return find(caller, kind, use, options)

    def context(self, loaded: LoadedComponent, **more: Any) -> HookContext:
        """The context of one hook call; ``more``: fields that its kind has besides."""
        reading = self.formats()
        common = {
            "name": loaded.entry.name,
            "cache": _own_cache(loaded),
            "store": self._store,
            "seed": self.config.seed,
            "offline": self.config.offline,
            "sink": self._sink,
            "reach": self.reach,
            "open_checkpoint": reading.open,
            "read_tokenizer": reading.tokenizer,
        }
        return HookContext(**{**common, **more})

    def _make(self, kind: str, config: ComponentConfig, **arguments: Any) -> _Made:
        """Call the hook that makes a component's object. Raises ``PluginError`` or ``ConfigError``."""
        component = self.component(kind, config.use)
        options: Any = structure_options(component.component.options, config.options, config.path)
        hook = f"llmasos_create_{kind}"
        made = self.plugins.call(component, hook, options=options, context=self.context(component), **arguments)
        return _Made(made, component, options)


def _own_cache(loaded: LoadedComponent) -> Path:
    return working_cache_folder() / KINDS[loaded.entry.kind].plural / loaded.entry.distribution / loaded.entry.name
