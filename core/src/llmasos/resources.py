"""What the models of this process may use and what they do use.

    import llmasos

    llmasos.resources.configure(memory="6GiB", threads=2)
    llmasos.resources.plan("smollm2")          # what it would need, and who would have to go for it
    llmasos.resources.usage()

The bounds set here hold for all pipelines of the process together; ``[resources]`` in a config bounds that pipeline's models, within
them. A model is named by its name in its pipeline, or by the reference it was loaded from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from llmasos.pipeline import ComponentArgument, Pipeline, load_model
from llmasos.runtime.host import ModelHost
from llmasos.runtime.process import process_resources
from llmasos.system.config import Config
from llmasos.system.config.sections import ResourcesConfig
from llmasos.system.nearest import did_you_mean, listed
from llmasos.system.options import structure_options
from llmasos.system.sizes import size_in_words
from llmasos_hookspecs import RequestError, ResourceError

if TYPE_CHECKING:
    from llmasos.model import LanguageModel

__all__ = ["configure", "load", "models", "pin", "plan", "unload", "usage"]


def configure(**bounds: Any) -> dict[str, Any]:
    """Set what the models of all pipelines of this process may use together; what is not given stays as it is.

    Args:
        memory: bytes for weights and KV, or a text such as ``"6GiB"``; None: no bound. Where more is in use already, idle models are
            unloaded at once and the others when they are idle.
        threads: compute threads of a model, for models loaded from now on; None: the loader's choice.
        reserve: bytes of ``memory`` that models leave free, for activations and the program itself.
        keep_alive: seconds after its last use when a model is unloaded, for pipelines made from now on; None: when another one needs its
            memory.

    Returns:
        All of these as they are now.

    Raises:
        ConfigError: an unknown name, or a value that is none.
    """
    process = process_resources()
    found = structure_options(ResourcesConfig, {key: value for key, value in bounds.items() if value is not None}, "resources")
    unknown = [name for name in bounds if not hasattr(found, name)]
    if unknown:
        structure_options(ResourcesConfig, dict.fromkeys(unknown, 1), "resources")  # raises, with the nearest name
    if "memory" in bounds or "reserve" in bounds:
        budget = process.budget
        with process.residency.memory.lock:
            budget.limit = found.memory if "memory" in bounds else budget.limit
            budget.reserve = (found.reserve or 0) if "reserve" in bounds else budget.reserve
        process.residency.settle(budget)
    process.threads = found.threads if "threads" in bounds else process.threads
    process.keep_alive = found.keep_alive if "keep_alive" in bounds else process.keep_alive
    return {
        "memory": process.budget.limit,
        "reserve": process.budget.reserve,
        "threads": process.threads,
        "keep_alive": process.keep_alive,
    }


def usage() -> dict[str, Any]:
    """What is in use, as plain data.

    ``memory``: ``limit``, ``reserve``, ``used``, ``free`` (None where there is no limit), ``weights`` and ``kv`` in bytes, and ``waiting``,
    the requests and loads that wait for memory. ``models``: by name, each with its state, queue lengths, KV used, cache hits, tokens a
    second, bytes, loads and evictions.
    """
    process = process_resources()
    budget = process.budget
    accounts = [model.account for model in process.residency.models()]
    weights, kv = sum(account.weights for account in accounts), sum(account.kv for account in accounts)
    return {
        "memory": {
            "limit": budget.limit,
            "reserve": budget.reserve,
            "used": weights + kv,
            "free": None if budget.limit is None else int(budget.free),
            "weights": weights,
            "kv": kv,
            "waiting": process.residency.waiting,
        },
        "threads": process.threads,
        "models": {name: host.usage() for name, host in _hosts().items()},
    }


def models() -> list[dict[str, Any]]:
    """What is known of every model of every open pipeline, loaded or not."""
    return [{**host.describe(), "name": name} for name, host in _hosts().items()]


def plan(
    source: str, *, loader: ComponentArgument = "auto", context_length: int | None = None, tokens: int | None = None
) -> dict[str, Any]:
    """What loading a model would take, told before a weight is read.

    Args:
        source: a model of an open pipeline by name, or any model reference.
        loader, context_length: for a reference, as for ``load_model``.
        tokens: of the sequences that should fit; None: one of the whole context.

    Returns:
        ``weights``, ``kv_bytes_per_token``, ``kv`` for ``tokens``, ``peak`` while loading, ``total``, all in bytes; ``load_seconds``;
        ``measured``: whether an earlier load gave the figures; ``fits``: whether there is room, after ``evicts`` (names) are unloaded;
        ``why``: a sentence for each of the findings.
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
    """Load a model of an open pipeline now; where none has it, open one for the reference, as ``load_model`` does with ``how``."""
    found = _find(name)
    if not found:
        return load_model(name, **how)
    with found[0].lease():
        pass
    return next(model for pipeline in list(process_resources().pipelines) for model in pipeline.models.values() if model._host is found[0])


def unload(name: str) -> None:
    """Free a model's engine; its next request loads it again. Raises ``ResourceError`` while requests are on their way."""
    for host in _known(name):
        if not process_resources().residency.unload(host.tracked) and host.busy:
            raise ResourceError(f"The model {name} is in use by {host.tracked.leases} requests; wait until they are over, or close it.")


def pin(name: str, pinned: bool = True) -> None:
    """Keep a model in memory whoever else needs it, loading it first; or, with ``pinned`` false, let it go again."""
    for host in _known(name):
        if pinned:
            with host.lease():
                host.tracked.pinned = True
        else:
            host.tracked.pinned = False


def _hosts() -> Mapping[str, ModelHost]:
    """All models of all open pipelines; one whose name another one has already is numbered."""
    found: dict[str, ModelHost] = {}
    for pipeline in sorted(process_resources().pipelines, key=lambda pipeline: pipeline.number):
        for name, host in pipeline.hosts.items():
            label, number = name, 1
            while label in found:
                number += 1
                label = f"{name}#{number}"
            found[label] = host
    return found


def _find(name: str) -> list[ModelHost]:
    hosts = _hosts()
    if name in hosts:
        return [hosts[name]]
    return [host for host in hosts.values() if host.source == name]


def _known(name: str) -> list[ModelHost]:
    found = _find(name)
    if not found:
        hosts = _hosts()
        names = [*hosts, *(host.source for host in hosts.values())]
        raise RequestError(f'No open pipeline has a model "{name}"; there are {listed(hosts)}{did_you_mean(name, names)}')
    return found


def _reasons(measured: bool, total: int, loaded: bool, missing: float, evicts: list[str], most: float | None) -> list[str]:
    found = ["The figures are those of an earlier load here." if measured else "The figures are estimates from the checkpoint's headers."]
    if loaded:
        return [*found, "It is loaded already."]
    if most is None:
        return [*found, "No memory budget is set, so nothing has to be unloaded."]
    if missing <= 0:
        return [*found, f"{size_in_words(total)} are free."]
    if evicts:
        names = ", ".join(evicts)
        return [
            *found,
            f"{size_in_words(missing)} are missing; {names} would be unloaded, idle and quickest to load again for its time unused.",
        ]
    if total > most:
        return [*found, f"It needs {size_in_words(total)}, and the budget leaves {size_in_words(most)} even when nothing else is loaded."]
    return [*found, f"{size_in_words(missing)} are missing, and what is loaded is pinned or in use: a load would wait for it."]
