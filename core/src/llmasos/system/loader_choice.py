"""The choice of the loader for a checkpoint, with the reasons against the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from llmasos.system.bounded import UNBOUNDED, Bound, call_within
from llmasos.system.components import LoadedComponent, load_component, missing_frameworks
from llmasos.system.config import ComponentConfig
from llmasos.system.discovery import Registry
from llmasos.system.options import find_problems
from llmasos_hookspecs import NEUTRAL_FORMATS, Checkpoint, PluginError, UnsupportedModel, beyond

#: Format of an export -> our distribution that takes it.
_TAKERS: Final = {
    "onnx": "llmasos-backend-onnx",
    "onnx_genai": "llmasos-backend-onnx",
    "saved_model": "llmasos-backend-tf",
    "keras": "llmasos-backend-tf",
    "torch_export": "llmasos-backend-torch",
}


@attrs.frozen
class LoaderChoice:
    """The result of ``use = "auto"``.

    Attributes:
        loader: the loader of highest preference that takes the checkpoint.
        passed_over: why each loader that is preferred to it was not chosen, one sentence each.
    """

    loader: LoadedComponent
    passed_over: tuple[str, ...]


def installed_loaders(registry: Registry) -> list[LoadedComponent]:
    """The loaders that can be imported, by descending preference."""
    found = []
    for entry in registry.entries("loader"):
        try:
            found.append(load_component(entry))
        except PluginError:
            continue  # config does not name it; `plugins list` shows what is wrong with it
    return sorted(found, key=lambda loader: loader.component.preference, reverse=True)


def choose_loader(
    loaders: Iterable[LoadedComponent], checkpoint: Checkpoint, config: ComponentConfig, bound: Bound = UNBOUNDED
) -> LoaderChoice:
    """The preferred loader that takes the checkpoint, whose frameworks are installed and whose options are those that config gives.

    ``loaders``: the preferred first. ``bound``: of each question that is asked of one.

    Raises:
        UnsupportedModel: no installed loader takes the checkpoint.
        PluginError: no loader is installed.
    """
    loaders = list(loaders)
    refusals: list[str] = []
    for loader in loaders:
        reason = refusal(loader, checkpoint, bound) or _unready(loader, config)
        if not reason:
            return LoaderChoice(loader, tuple(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in refusals))
        refusals.append(reason)
    if not refusals:
        raise PluginError("No loader is installed; pip install llmasos-backend-onnx.")
    raise UnsupportedModel(f"No installed loader takes {checkpoint.path}: {'; '.join(refusals)}{taker(loaders, checkpoint)}.")


def refusal(loaded: LoadedComponent, checkpoint: Checkpoint, bound: Bound = UNBOUNDED) -> str:
    """Why a loader or an accelerator does not take a checkpoint, as the beginning of a sentence; empty where it does.

    Asked of the config alone, before the component is chosen. ``bound``: of the component's ``takes``.

    Raises:
        PluginError: the component's ``takes`` raises, returns something other than a reason or None, or does not return in time.
    """
    component, label = loaded.component, loaded.entry.label
    if checkpoint.format not in component.formats:
        return f"the {label} takes {', '.join(component.formats)}, and {checkpoint.path} is {checkpoint.format}"
    # An export brings its graph, whatever its architecture; names of tensors have to be known.
    kind = checkpoint.config.get("model_type") if checkpoint.format in NEUTRAL_FORMATS else None
    if kind is not None and "*" not in component.architectures and kind not in component.architectures:
        return f"the {label} takes the architectures {', '.join(component.architectures)}, and {checkpoint.path} is {kind}"
    try:
        reason = _asked(loaded, checkpoint, bound) if component.takes is not None else _beyond_plain(loaded, checkpoint)
    except UnsupportedModel as error:
        reason = str(error).rstrip(".")
    return f"the {label} does not take {checkpoint.path} ({kind}): {reason}" if reason else ""


def taker(loaders: Iterable[LoadedComponent], checkpoint: Checkpoint) -> str:
    """Which of our loaders would take a format that no installed one takes, as the end of a sentence."""
    distribution = _TAKERS.get(checkpoint.format)
    if distribution is None or any(checkpoint.format in loader.component.formats for loader in loaders):
        return ""
    return f"; pip install {distribution}, which does"


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


def _unready(loader: LoadedComponent, config: ComponentConfig) -> str:
    missing = missing_frameworks(loader.component)
    if missing:
        return f"the {loader.entry.label} needs {' and '.join(missing)} (pip install {' '.join(missing)})"
    problems = find_problems(loader.component.options, config.options, config.path)
    return f"the {loader.entry.label} refuses its options ({problems[0]})" if problems else ""
