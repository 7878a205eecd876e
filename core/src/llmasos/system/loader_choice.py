"""The choice of the loader for a checkpoint, with the reasons against the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from llmasos.system.components import LoadedComponent, load_component, missing_frameworks
from llmasos.system.descriptions import Description, described
from llmasos.system.discovery import Registry
from llmasos_config import ComponentConfig
from llmasos_config.catalog import first_distribution, taker_of
from llmasos_hookspecs import NEUTRAL_FORMATS, Checkpoint, PluginError, UnsupportedModel, beyond
from llmasos_options import find_problems
from llmasos_plugin_calls.bounded import UNBOUNDED, Bound, call_within


@attrs.frozen
class LoaderChoice:
    """A loader for a checkpoint: the one that config names, or the result of ``use = "auto"``.

    Attributes:
        loader: the loader; of ``auto`` that of highest preference that takes the checkpoint.
        passed_over: why each loader that is preferred to it was not chosen, one sentence each.
        why: the sentence with the figures by which it was chosen; empty where preference decided.
        named: whether config names it.
    """

    loader: LoadedComponent
    passed_over: tuple[str, ...] = ()
    why: str = ""
    named: bool = False

    @property
    def sentence(self) -> str:
        """How it was chosen."""
        if self.named:
            return "The config names it."
        return self.why or "Of the installed loaders that take the model it is preferred."

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the choice, one sentence each."""
        return (*((self.why,) if self.why else ()), *self.passed_over)


def installed_loaders(registry: Registry) -> list[Description]:
    """The loaders that can be used, by descending preference; none is imported."""
    found = [loader for loader in described(registry.entries("loader")) if not loader.problem]  # `plugins list` shows what is wrong
    return sorted(found, key=lambda loader: loader.preference, reverse=True)


def choose_loader(
    loaders: Iterable[Description], checkpoint: Checkpoint, config: ComponentConfig, bound: Bound = UNBOUNDED, *, adapters: bool = False
) -> LoaderChoice:
    """The preferred loader that takes the checkpoint, whose frameworks are installed and whose options are those that config gives.

    ``loaders``: the preferred first. One is imported only where it is the first whose description fits. ``bound``: of each question that is
    asked of one. ``adapters``: only a loader that computes adapters will do.

    Raises:
        UnsupportedModel: no installed loader takes the checkpoint.
        PluginError: no loader is installed.
    """
    loaders = list(loaders)
    refusals: list[str] = []
    for loader in loaders:
        reason = misfit(loader, checkpoint) or _unready(loader, config)
        if not reason:
            try:
                loaded = load_component(loader.entry)
            except PluginError as error:
                reason = str(error).rstrip(".")
            else:
                reason = (without_adapters(loaded) if adapters else "") or refusal(loaded, checkpoint, bound)
                reason = reason or _wrong_options(loaded, config)
                if not reason:
                    return LoaderChoice(loaded, tuple(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in refusals))
        refusals.append(reason)
    if not refusals:
        raise PluginError(f"No loader is installed; pip install {first_distribution('loader')}.")
    raise UnsupportedModel(f"No installed loader takes {checkpoint.path}: {'; '.join(refusals)}{taker(loaders, checkpoint)}.")


def misfit(described: Description, checkpoint: Checkpoint) -> str:
    """Why a component whose module is not imported does not take a checkpoint, as the beginning of a sentence; empty where it may."""
    return _misfit(described.entry.label, described.formats, described.architectures, checkpoint)


def refusal(loaded: LoadedComponent, checkpoint: Checkpoint, bound: Bound = UNBOUNDED) -> str:
    """Why a loader or an accelerator does not take a checkpoint, as the beginning of a sentence; empty where it does.

    Asked of the config alone, before the component is chosen. ``bound``: of the component's ``takes``.

    Raises:
        PluginError: the component's ``takes`` raises, returns something other than a reason or None, or does not return in time.
    """
    component, label = loaded.component, loaded.entry.label
    if reason := _misfit(label, component.formats, component.architectures, checkpoint):
        return reason
    try:
        reason = _asked(loaded, checkpoint, bound) if component.takes is not None else _beyond_plain(loaded, checkpoint)
    except UnsupportedModel as error:
        reason = str(error).rstrip(".")
    return f"the {label} does not take {checkpoint.path} ({_kind(checkpoint)}): {reason}" if reason else ""


def without_adapters(loaded: LoadedComponent) -> str:
    """Why a loader does not take a model with adapters, as the beginning of a sentence; empty where it does."""
    return "" if loaded.component.adapters else f"the {loaded.entry.label} computes no adapters"


def taker(loaders: Iterable[Description], checkpoint: Checkpoint) -> str:
    """Which of our loaders would take a format that no installed one takes, as the end of a sentence."""
    distribution = taker_of(checkpoint.format)
    if distribution is None or any(checkpoint.format in loader.formats for loader in loaders):
        return ""
    return f"; pip install {distribution}, which does"


def _misfit(label: str, formats: Sequence[str], architectures: Sequence[str], checkpoint: Checkpoint) -> str:
    if checkpoint.format not in formats:
        return f"the {label} takes {', '.join(formats)}, and {checkpoint.path} is {checkpoint.format}"
    kind = _kind(checkpoint)
    if kind is not None and "*" not in architectures and kind not in architectures:
        return f"the {label} takes the architectures {', '.join(architectures)}, and {checkpoint.path} is {kind}"
    return ""


def _kind(checkpoint: Checkpoint) -> str | None:
    """The architecture of a checkpoint whose tensors have to be known by name; an export brings its graph, whatever it is."""
    return checkpoint.config.get("model_type") if checkpoint.format in NEUTRAL_FORMATS else None


def _asked(loaded: LoadedComponent, checkpoint: Checkpoint, bound: Bound) -> str:
    label, takes = loaded.entry.label, loaded.component.takes
    assert takes is not None
    reason = call_within(bound, label, "takes", lambda _: takes(checkpoint))
    if reason is not None and not isinstance(reason, str):
        raise PluginError(f"The {label} answers {reason!r} to whether it takes a checkpoint; a reason or None is due.")
    return (reason or "").rstrip(".")


def _beyond_plain(loaded: LoadedComponent, checkpoint: Checkpoint) -> str:
    """The check of a component without ``takes``: it computes the plain form of the architectures that it names."""
    if checkpoint.format not in NEUTRAL_FORMATS or "*" in loaded.component.architectures:
        return ""
    return beyond(checkpoint.decoder) or ""


def _unready(loader: Description, config: ComponentConfig) -> str:
    missing = missing_frameworks(loader)
    if missing:
        return f"the {loader.entry.label} needs {' and '.join(missing)} (pip install {' '.join(missing)})"
    unknown = sorted(set(config.options) - set(loader.option_names))
    return f"the {loader.entry.label} has no option {unknown[0]}" if unknown else ""


def _wrong_options(loaded: LoadedComponent, config: ComponentConfig) -> str:
    problems = find_problems(loaded.component.options, config.options, config.path)
    return f"the {loaded.entry.label} refuses its options ({problems[0]})" if problems else ""
