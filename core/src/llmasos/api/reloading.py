"""Another config for a pipeline that serves: what of it can change without a restart, and changing it, all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos.api.pipeline import Pipeline
from llmasos_config import ComponentConfig, Config
from llmasos_hookspecs import ConfigError, Server
from llmasos_hookspecs.guarding.edge import crossing
from llmasos_hookspecs.nearest import listed

#: Fields of ``Config`` of which parts can change.
_PARTLY: Final = ("models", "servers", "resources", "origins")
#: Fields of ``[resources]`` that can change.
_RESOURCES: Final = ("memory", "reserve")


def apply(config: Config, pipeline: Pipeline, servers: Sequence[tuple[Server, str]]) -> list[str]:
    """Use another config: its schedulers, its memory, and the options of its servers, who read the files that these name again.

    Returns the dotted paths of what has changed. Requests in progress go on.

    Raises:
        ConfigError: something else differs, with its paths, or a value is refused; nothing is changed.
        PluginError: a scheduler or a server is not installed, or refuses; nothing is changed.
    """
    pipeline.check(config)
    before = pipeline.config
    if fixed := list(_fixed(before, config, servers)):
        raise ConfigError(f"{listed(fixed)} cannot change while the pipeline serves, and nothing was changed; start the program again.")
    schedulers = {name: model.scheduler for name, model in config.models.items() if model.scheduler != before.models[name].scheduler}
    for scheduler in schedulers.values():
        pipeline.composer.policy(scheduler)  # raises where it cannot be made
    _reload_servers(before, config, pipeline, servers)
    for name, scheduler in schedulers.items():
        pipeline.use_scheduler(scheduler.to_mapping(), model=name)
    if (memory := _values(config)) != _values(before):
        pipeline.limit_memory(config.resources.memory, config.resources.reserve)
    pipeline.config = config
    changed = [f"models.{name}.scheduler" for name in schedulers]
    changed += [f"resources.{name}" for name, value in memory.items() if value != _values(before)[name]]
    return changed + [f"server[{place}]" for place, server in enumerate(config.servers) if server != before.servers[place]]


def _fixed(before: Config, after: Config, servers: Sequence[tuple[Server, str]]) -> Iterator[str]:
    """The paths of what differs and cannot change."""
    for field in attrs.fields(Config):
        if field.name not in _PARTLY and getattr(before, field.name) != getattr(after, field.name):
            yield field.name
    for name in sorted({*before.models, *after.models}):
        old, new = before.models.get(name), after.models.get(name)
        if old is None or new is None or attrs.evolve(new, scheduler=old.scheduler) != old:
            yield f"models.{name}"
    for field in attrs.fields(type(before.resources)):
        if field.name not in _RESOURCES and getattr(before.resources, field.name) != getattr(after.resources, field.name):
            yield f"resources.{field.name}"
    if [server.use for server in before.servers] != [server.use for server in after.servers]:
        yield "server"
        return
    for place, (former, later) in enumerate(zip(before.servers, after.servers, strict=True)):
        if former != later and not _can_reload(servers[place][0]):
            yield f"server[{place}]"


def _reload_servers(before: Config, after: Config, pipeline: Pipeline, servers: Sequence[tuple[Server, str]]) -> None:
    """Give each server its options. Where one refuses them, those before it get their old ones back."""
    done: list[tuple[Any, str, ComponentConfig]] = []
    try:
        for (server, label), old, new in zip(servers, before.servers, after.servers, strict=True):
            if _can_reload(server):
                _give(pipeline, server, label, new)
                done.append((server, label, old))
    except BaseException:
        for server, label, old in done:
            _give(pipeline, server, label, old)
        raise


def _give(pipeline: Pipeline, server: Any, label: str, config: ComponentConfig) -> None:
    options = pipeline.composer.options("server", config)
    with crossing(label, "reload"):
        server.reload(options)


def _can_reload(server: Server) -> bool:
    return callable(getattr(server, "reload", None))


def _values(config: Config) -> Mapping[str, Any]:
    return {name: getattr(config.resources, name) for name in _RESOURCES}
