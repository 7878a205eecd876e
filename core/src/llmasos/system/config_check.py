"""Checking a config against the plugins that are installed: every problem at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmasos.system.components import LoadedComponent, load_component, missing_frameworks
from llmasos.system.descriptions import described
from llmasos.system.discovery import InstalledComponent, Registry
from llmasos_config.catalog import first_distribution
from llmasos_config.components import DEFAULT_LOADER
from llmasos_config.sections import Config
from llmasos_hookspecs import LLMasOSError, PluginError
from llmasos_options import find_problems
from llmasos_options.component import ComponentConfig


def check_config(
    config: Config, registry: Registry, *, load: Callable[[InstalledComponent], LoadedComponent] = load_component
) -> tuple[LLMasOSError, ...]:
    """Every problem of the components that a config names: what is not installed or broken, and every option that is refused.

    Imports the plugins that config names, and no framework. Nothing is raised; an empty tuple means that the config is sound.
    """
    problems: list[LLMasOSError] = []
    for kind, component in config.components():
        if kind == "loader" and component.use == DEFAULT_LOADER:
            problems.extend(_check_automatic(component, registry, load))
            continue
        try:
            loaded = load(registry.find(kind, component.use))
        except PluginError as error:
            problems.append(_placed(error, component))
            continue
        problems.extend(_check_component(loaded, component))
    return tuple(problems)


def _check_component(loaded: LoadedComponent, component: ComponentConfig) -> Iterator[LLMasOSError]:
    missing = missing_frameworks(loaded.component)
    if missing:
        sentence = f"{component.path}.use: the {loaded.entry.label} needs {' and '.join(missing)}; pip install {' '.join(missing)}."
        yield PluginError(sentence)
    yield from find_problems(loaded.component.options, component.options, component.path)


def _check_automatic(
    component: ComponentConfig, registry: Registry, load: Callable[[InstalledComponent], LoadedComponent]
) -> list[LLMasOSError]:
    """Some installed loader must be in order and take the options; which one it will be depends on the checkpoint.

    Loaders are imported by descending preference until one is in order; one whose description says that it is not, only where all are.
    """
    loaders = sorted(described(registry.entries("loader")), key=lambda loader: loader.preference, reverse=True)
    if not loaders:
        return [PluginError(f"{component.path}.use: no loader is installed; pip install {first_distribution('loader')}.")]
    fitting = [loader for loader in loaders if not loader.problem and set(component.options) <= set(loader.option_names)]
    problems: list[list[LLMasOSError]] = []
    for loader in [loader for loader in fitting if not missing_frameworks(loader)] or loaders[:1]:
        try:
            problems.append(list(_check_component(load(loader.entry), component)))
        except PluginError as error:
            problems.append([error])
        if not problems[-1]:
            return []
    return problems[0]


def _placed(error: PluginError, component: ComponentConfig) -> PluginError:
    sentence = str(error)
    return PluginError(f"{component.path}.use: {sentence[0].lower()}{sentence[1:]}")
