"""The memory and threads of this process's models: limits, use, and control over what is loaded.

    import llmasos

    llmasos.resources.configure(memory="6GiB", threads=2)
    llmasos.resources.plan("smollm2")          # what it would need, and which models would be unloaded for it
    llmasos.resources.usage()

The limits set here hold for all pipelines of the process together; ``[resources]`` in a config limits that pipeline's models in addition.
A model is named by its name in its pipeline, or by the reference it was loaded from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from llmasos.api.pipeline import ComponentArgument, Pipeline, load_model
from llmasos.compose.host import ModelHost
from llmasos.compose.process import process_resources
from llmasos_config import Config
from llmasos_config.tables import ResourcesConfig
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.nearest import did_you_mean, listed
from llmasos_hookspecs.sizes import size_in_words
from llmasos_options import structure_options

if TYPE_CHECKING:
    from llmasos.api.model import LanguageModel

__all__ = ["configure", "load", "models", "pin", "plan", "unload", "usage"]


def configure(**bounds: Any) -> dict[str, Any]:
    """Set the limits for the models of all pipelines of this process together; a limit that is not given is left unchanged.

    Args:
        memory: bytes for weights and KV, or a text such as ``"6GiB"``; None: no limit. Where more is in use already, idle models are
            unloaded at once and the others when they become idle.
        threads: compute threads of a model, for models loaded from now on; None: the loader's choice.
        reserve: bytes of ``memory`` that models leave free, for activations and the program itself.
        keep_alive: seconds after its last use when a model is unloaded, for pipelines made from now on; None: when another one needs its
            memory.

    Returns:
        All limits as they are now.

    Raises:
        ConfigError: an unknown name, or an invalid value.
    """
    process = process_resources()
    limits = structure_options(ResourcesConfig, {key: value for key, value in bounds.items() if value is not None}, "resources")
    unknown = [name for name in bounds if not hasattr(limits, name)]
    if unknown:
        structure_options(ResourcesConfig, dict.fromkeys(unknown, 1), "resources")  # raises, with the nearest name
    if "memory" in bounds or "reserve" in bounds:
        budget = process.budget
        with process.residency.memory.lock:
            budget.limit = limits.memory if "memory" in bounds else budget.limit
            budget.reserve = (limits.reserve or 0) if "reserve" in bounds else budget.reserve
        process.residency.settle(budget)
    process.threads = limits.threads if "threads" in bounds else process.threads
    process.keep_alive = limits.keep_alive if "keep_alive" in bounds else process.keep_alive
    return {
        "memory": process.budget.limit,
        "reserve": process.budget.reserve,
        "threads": process.threads,
        "keep_alive": process.keep_alive,
    }


def usage() -> dict[str, Any]:
    """Memory, models and observers in use, as plain data.

    ``memory``: ``limit``, ``reserve``, ``used``, ``free`` (None where there is no limit), ``weights`` and ``kv`` in bytes, and ``waiting``,
    the requests and loads that wait for memory. ``models``: by name, each with its state, queue lengths, KV used, cache hits, tokens a
    second, bytes, loads and evictions. ``observers``: of all open pipelines, each with ``waiting``, the events in its queue, and
    ``dropped``, the events that it was too slow for.
    """
    return process_resources().usage()


def models() -> list[dict[str, Any]]:
    """The description of every model of every open pipeline, loaded or not, as plain data."""
    return [{**host.describe(), "name": name} for name, host in process_resources().hosts().items()]


def plan(
    source: str, *, loader: ComponentArgument = "auto", context_length: int | None = None, tokens: int | None = None
) -> dict[str, Any]:
    """Predict what loading a model would take, from its headers alone.

    Args:
        source: a model of an open pipeline by name, or any model reference.
        loader, context_length: for a reference, as for ``load_model``.
        tokens: total length of the sequences that should fit; None: one sequence of the whole context.

    Returns:
        ``weights``, ``kv_bytes_per_token``, ``kv`` for ``tokens``, ``peak`` while loading, ``total``, all in bytes; ``load_seconds``;
        ``measured``: whether an earlier load gave the figures; ``fits``: whether it fits once the models in ``evicts`` (names) are
        unloaded; ``why``: sentences that explain the result.
    """
    process = process_resources()
    named = _find(source) if loader == "auto" and context_length is None else []
    if named:
        host = named[0]
        need, budgets, tracked = host.need(), host.tracked.account.bounds, host.tracked
    else:
        model = {"source": source} | ({} if context_length is None else {"context_length": context_length})
        with Pipeline(Config.from_mapping({"model": model, "loader": loader})) as pipeline:
            need = pipeline.predict()
        budgets, tracked = [process.budget] if process.budget.limit is not None else [], None
    tokens = need.context_length if tokens is None else tokens
    kv = tokens * need.kv_bytes_per_token
    loaded = tracked is not None and tracked.state == "loaded"
    missing, victims = process.residency.would_evict(budgets, 0 if loaded else need.weights + kv, sparing=tracked)
    most = min((budget.most for budget in budgets), default=None)
    return {
        "model": source,
        "loaded": loaded,
        **{key: value for key, value in attrs.asdict(need).items() if key != "copies"},
        "tokens": tokens,
        "kv": kv,
        "total": need.weights + kv,
        "fits": missing <= 0 or bool(victims),
        "evicts": [victim.name for victim in victims],
        "why": _reasons(need.measured, need.weights + kv, loaded, missing, [victim.name for victim in victims], most),
    }


def load(name: str, **how: Any) -> LanguageModel:
    """Load a model of an open pipeline now. Where no pipeline has it, ``load_model(name, **how)`` opens one."""
    hosts = _find(name)
    if not hosts:
        return load_model(name, **how)
    with hosts[0].lease():  # a lease loads the model
        pass
    models = (model for pipeline in list(process_resources().pipelines) for model in pipeline.models.values())
    found: LanguageModel = next(model for model in models if model._host is hosts[0])
    return found


def unload(name: str) -> None:
    """Free a model's engine; its next request loads it again. Raises ``ResourceError`` while requests use it."""
    for host in _known(name):
        host.unload_idle()


def pin(name: str, pinned: bool = True) -> None:
    """Load a model, and never unload it to make room for another; with ``pinned`` false, allow that again."""
    for host in _known(name):
        host.pin(pinned)


def _find(name: str) -> list[ModelHost]:
    hosts = process_resources().hosts()
    if name in hosts:
        return [hosts[name]]
    return [host for host in hosts.values() if host.source == name]


def _known(name: str) -> list[ModelHost]:
    known = _find(name)
    if not known:
        hosts = process_resources().hosts()
        names = [*hosts, *(host.source for host in hosts.values())]
        raise RequestError(f'No open pipeline has a model "{name}"; there are {listed(hosts)}{did_you_mean(name, names)}')
    return known


def _reasons(measured: bool, total: int, loaded: bool, missing: float, evicts: list[str], most: float | None) -> list[str]:
    reason = (
        "The figures were measured by an earlier load here." if measured else "The figures are estimates from the checkpoint's headers."
    )
    if loaded:
        return [reason, "The model is loaded already."]
    if most is None:
        return [reason, "No memory budget is set, so nothing has to be unloaded."]
    if missing <= 0:
        return [reason, f"{size_in_words(total)} are free."]
    if evicts:
        return [
            reason,
            f"{size_in_words(missing)} are missing; {', '.join(evicts)} would be unloaded: idle, and cheapest to load again.",
        ]
    if total > most:
        return [reason, f"It needs {size_in_words(total)}, and the budget leaves {size_in_words(most)} even when nothing else is loaded."]
    return [reason, f"{size_in_words(missing)} are missing, and all loaded models are pinned or in use: the load would wait for them."]
