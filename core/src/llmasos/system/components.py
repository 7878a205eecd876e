"""Imports the plugins that config names, checks their components, and calls their hooks."""

from __future__ import annotations

import errno
import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import attrs
from pluggy import HookspecOpts, PluginManager, PluginValidationError

from llmasos.system.bounds import Bounds, signs_of_progress
from llmasos.system.context import HookContext
from llmasos.system.contract import api_fault, contract_fault
from llmasos.system.discovery import CORE, InstalledComponent
from llmasos.system.requirements import installed_version, unmet_requirements
from llmasos_hookspecs import KINDS, PROJECT, Component, LLMasOSError, PluginError, specs
from llmasos_hookspecs.guarding.edge import as_ours, in_words, interrupted
from llmasos_hookspecs.nearest import did_you_mean, listed, nearest
from llmasos_plugin_calls.bounded import call_within
from llmasos_plugin_calls.returned import fault_of

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_SPECIFIED: Final = frozenset(name for name in vars(specs) if name.startswith("llmasos_"))

_MAY_RETURN_NONE: Final = frozenset(hook for kind in KINDS.values() for hook in kind.may_return_none)


@attrs.frozen(eq=False)
class LoadedComponent:
    """A plugin module that was imported and passed the checks."""

    entry: InstalledComponent
    module: ModuleType
    component: Component

    def implements(self, hook: str) -> bool:
        """Whether its module has an optional hook."""
        return hasattr(getattr(self.module, hook, None), f"{PROJECT}_impl")


def load_component(entry: InstalledComponent) -> LoadedComponent:
    """Import an entry's module (which imports no framework) and check what it offers.

    Raises:
        PluginError: a requirement of the distribution is unmet, the module cannot be imported, a hook is misspelt, takes
            unknown parameters or parameters with a default value, or the component is for another version of the contract.
    """
    version_of = functools.cache(installed_version)
    fault = contract_fault(entry.requires, entry.distribution, version_of=version_of)
    if fault:
        raise PluginError(f"The {entry.label} {fault}")
    unmet = () if entry.distribution == CORE else unmet_requirements(entry.requires, entry.requires_python, version_of=version_of)
    if unmet:
        raise PluginError(
            f"The {entry.label} requires {'; '.join(unmet)}; pip install --upgrade {entry.distribution}, or install what it requires."
        )
    module = _import(entry)
    _check_hooks(entry, module)
    return LoadedComponent(entry, module, _describe(entry, module))


class HasFrameworks(Protocol):
    """A component, or its description."""

    @property
    def frameworks(self) -> Mapping[str, str]: ...


def missing_frameworks(component: HasFrameworks) -> tuple[str, ...]:
    """Distributions that bring the frameworks that the component needs and that cannot be found; nothing is imported."""
    return tuple(distribution for name, distribution in component.frameworks.items() if not _importable(name))


class PluginSet:
    """The plugins of one pipeline: one ``PluginManager`` that holds what config names, and the observers."""

    def __init__(self, loaded: Iterable[LoadedComponent] = (), bounds: Bounds | None = None) -> None:
        """``bounds``: of the calls; None: the defaults."""
        self._bounds = bounds or Bounds()
        self._loaded: dict[InstalledComponent, LoadedComponent] = {}
        self._manager = _manager()
        for each in loaded:
            self._register(each)

    @property
    def loaded(self) -> tuple[LoadedComponent, ...]:
        """What the set holds, in the order it came in."""
        return tuple(self._loaded.values())

    def add(self, entry: InstalledComponent) -> LoadedComponent:
        """Import a component and take it in, unless it is in already. Raises ``PluginError`` like ``load_component``."""
        return self._loaded[entry] if entry in self._loaded else self.take(load_component(entry))

    def take(self, loaded: LoadedComponent) -> LoadedComponent:
        """Take in a component that is imported already, unless it is in."""
        if loaded.entry not in self._loaded:
            self._register(loaded)
        return self._loaded[loaded.entry]

    def _register(self, loaded: LoadedComponent) -> None:
        self._loaded[loaded.entry] = loaded
        # One module may stand behind several names, and one name may be used twice in a pipeline.
        if not self._manager.is_registered(loaded.module):
            self._manager.register(loaded.module, f"{loaded.entry.kind} {loaded.entry.qualified}")
            self._manager.check_pending()

    def call(self, loaded: LoadedComponent, hook: str, **arguments: Any) -> Any:
        """Call one component's hook, and no other's.

        Raises:
            PluginError: a framework that the component needs is missing, the plugin failed with an error that it did not
                mean, it returned something that its kind must not, or it did not return within the hook's bound.
            ResourceError: it ran out of memory.
            LLMasOSError: an error that the plugin raised on purpose, or the disk is full.
        """
        missing = missing_frameworks(loaded.component)
        if missing:
            raise PluginError(
                f"The {loaded.entry.label} needs {' and '.join(missing)}, not installed here; pip install {' '.join(missing)}."
            )

        def call(progressed: Callable[[], None]) -> Any:
            context = arguments.get("context")
            if isinstance(context, HookContext):
                return self._call(loaded, hook, {**arguments, "context": attrs.evolve(context, progressed=progressed)})
            return self._call(loaded, hook, arguments)

        return call_within(
            self._bounds.hook(hook), loaded.entry.label, hook, call, discard=_shut_down, signs=signs_of_progress(hook, arguments)
        )

    def _call(self, loaded: LoadedComponent, hook: str, arguments: Mapping[str, Any]) -> Any:
        others = [plugin for plugin in self._manager.get_plugins() if plugin is not loaded.module]
        caller = self._manager.subset_hook_caller(hook, others)
        try:
            result = caller(**arguments)
            fault = "None" if result is None and hook not in _MAY_RETURN_NONE else fault_of(hook, result)
        except BaseException as error:
            if interrupted(error):
                raise
            if isinstance(error, OSError) and error.errno in _FULL:
                raise LLMasOSError(
                    f"The {loaded.entry.label} could not write {error.filename or 'its files'} ({error.strerror}); make room for them, or "
                    "set LLMASOS_HOME to a folder on a larger disk."
                ) from error
            ours = as_ours(error, loaded.entry.label, hook, loaded.entry.distribution)
            if ours is error:
                raise
            raise ours from error
        if fault:
            raise PluginError(f"The {loaded.entry.label} returned {fault} from {hook}; this is a fault of the plugin.")
        return result


class _Manager(PluginManager):
    """One that looks through the specifications once a process: pluggy inspects each of the module's names, which takes as long as all
    else that is checked when a component is loaded."""

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> HookspecOpts | None:
        return _options_of(name) if module_or_class is specs else super().parse_hookspec_opts(module_or_class, name)


@functools.cache
def _options_of(name: str) -> HookspecOpts | None:
    return PluginManager(PROJECT).parse_hookspec_opts(specs, name)


def _manager() -> PluginManager:
    manager = _Manager(PROJECT)
    manager.add_hookspecs(specs)
    return manager


def _shut_down(result: Any) -> None:
    """Free what a hook returned after it was given up: an engine holds memory."""
    shutdown = getattr(result, "shutdown", None)
    if callable(shutdown):
        shutdown()


def _import(entry: InstalledComponent) -> ModuleType:
    if not all(part.isidentifier() for part in entry.module.split(".")):
        raise PluginError(
            f'The {entry.label} has the entry point "{entry.module}", and it must be the import name of a module with hooks; '
            f"this is a fault of {entry.distribution}."
        )
    try:
        return importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        missing = error.name or "a module"
        if missing == entry.module or entry.module.startswith(f"{missing}."):
            cure = f"pip install --force-reinstall {entry.distribution}"
        else:
            cure = f"pip install the package that brings {missing.partition('.')[0]}"
        raise PluginError(f"The {entry.label} cannot be imported, because the module {missing} is missing; {cure}.") from error
    except BaseException as error:  # a module that calls sys.exit() would end the program without a word
        if interrupted(error):
            raise
        raise PluginError(
            f"The {entry.label} cannot be imported, because it raises {in_words(error)}; try another version of "
            f"{entry.distribution}, or pip uninstall {entry.distribution} and take it out of the config."
        ) from error


#: Module -> kind -> the hooks that were found in order: each use of a component asks again, and pluggy inspects all names of a module.
_SOUND: Final[WeakKeyDictionary[ModuleType, dict[str, dict[str, Any]]]] = WeakKeyDictionary()


def _check_hooks(entry: InstalledComponent, module: ModuleType) -> None:
    marked = {name: value for name, value in vars(module).items() if hasattr(value, f"{PROJECT}_impl")}
    sound = _SOUND.setdefault(module, {})
    if sound.get(entry.kind) == marked:
        return
    for name, function in marked.items():
        if name not in _SPECIFIED:
            raise PluginError(
                f"The {entry.label} implements an unknown hook, {_definition(name, function)}{did_you_mean(name, _SPECIFIED)}"
            )
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is not parameter.empty:
                raise PluginError(
                    f'The {entry.label} gives the parameter "{parameter.name}" of {_definition(name, function)} a default value, '
                    "which would always win, because hooks are filled by name; remove the default."
                )
    try:
        manager = _manager()
        manager.register(module, entry.qualified)
        manager.check_pending()
    except PluginValidationError as error:
        raise PluginError(f"The {entry.label} has a hook that does not fit its specification: {' '.join(str(error).split())}.") from error
    for needed in (("llmasos_component",), KINDS[entry.kind].hooks):
        if not any(name in marked for name in needed):
            raise PluginError(f"The {entry.label} does not implement {' or '.join(needed)}{_why_not(module, needed)}")
    sound[entry.kind] = marked


def _why_not(module: ModuleType, needed: tuple[str, ...]) -> str:
    unmarked = [name for name in needed if callable(getattr(module, name, None))]
    if unmarked:
        return f"; {unmarked[0]} is there and lacks @hookimpl."
    functions = [name for name in vars(module) if name.startswith("llmasos")]
    close = nearest(needed[0], functions)
    return f'; it has "{close}", which may be misspelt.' if close else f"; {module.__name__} has the hooks {listed(functions)}."


def _describe(entry: InstalledComponent, module: ModuleType) -> Component:
    try:
        component = module.llmasos_component()
    except BaseException as error:
        if interrupted(error):
            raise
        raise PluginError(
            f"The {entry.label} fails in llmasos_component: {in_words(error)}; try another version of {entry.distribution}."
        ) from error
    if not isinstance(component, Component):
        raise PluginError(f"The {entry.label} returns {component!r} from llmasos_component, and it must be a Component.")
    fault = api_fault(component, entry.distribution)
    if fault:
        raise PluginError(f"The {entry.label} {fault}")
    if not isinstance(component.options, type) or not attrs.has(component.options):
        raise PluginError(f"The {entry.label} has the options {component.options!r}, and they must be an attrs class.")
    return component


def _definition(name: str, function: Any) -> str:
    return f"{name}{inspect.signature(function)}"


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
