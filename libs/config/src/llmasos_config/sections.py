"""A whole pipeline as plain data. The options of plugins stay as they were written until their plugin is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from llmasos_config.components import DEFAULT_ACCESS, USUAL_ACCESS, usual_component
from llmasos_config.models import DEFAULT_MODEL, ModelConfig
from llmasos_config.presets import Presets
from llmasos_config.reading import ConfigReader
from llmasos_config.tables import ResourcesConfig, SecurityConfig
from llmasos_hookspecs import ConfigError
from llmasos_options import unstructure
from llmasos_options.component import ComponentConfig


@attrs.frozen(kw_only=True)
class Config:
    """A whole pipeline.

    Attributes:
        models: by name; the ``[model]`` table is the model ``default``. A ``[models.NAME]`` table takes its loader, accelerators,
            scheduler and placement from the top level where it has none of its own.
        tasks: options for tasks, by the name under which the pipeline offers them.
        observers: in the order in which they are told.
        guards: the ``[[guard]]`` tables, in the order in which texts pass them.
        servers: the ``[[server]]`` tables, which ``llmasos serve`` runs.
        access: who may use the servers.
        sources: options for sources, by name.
        formats: options for formats, by name.
        suites: what measures the stages of an acceleration, in order.
        reached: the tables that config has for kinds of ``REACHED``, by kind.
        resources: for all models together.
        security: what the files of every model must have.
        seed, offline: for all components.
        origins: dotted path of each value that was set -> where; what is not listed is a default.
    """

    models: Mapping[str, ModelConfig]
    tasks: Mapping[str, ComponentConfig] = attrs.field(factory=dict)
    observers: tuple[ComponentConfig, ...] = ()
    guards: tuple[ComponentConfig, ...] = ()
    servers: tuple[ComponentConfig, ...] = ()
    access: ComponentConfig = USUAL_ACCESS
    sources: Mapping[str, ComponentConfig] = attrs.field(factory=dict)
    formats: Mapping[str, ComponentConfig] = attrs.field(factory=dict)
    suites: tuple[ComponentConfig, ...] = ()
    reached: Mapping[str, ComponentConfig] = attrs.field(factory=dict)
    resources: ResourcesConfig = attrs.field(factory=ResourcesConfig)
    security: SecurityConfig = attrs.field(factory=SecurityConfig)
    seed: int = 0
    offline: bool = False
    origins: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], *, origins: Mapping[str, str] | None = None, presets: Presets | None = None
    ) -> Config:
        """Read config as TOML gives it. What needs a plugin's own options is checked by ``check_config``. A model whose source, or whose
        ``preset``, is one of ``presets``, the user's own by default, has that one's values where config sets none.

        Raises:
            ConfigError: with the path of the first problem, and a sentence for each problem.
        """
        config, problems = cls.read(mapping, origins=origins, presets=presets)
        if problems:
            raise ConfigError(" ".join(str(problem) for problem in problems), problems[0].path)
        return config

    @classmethod
    def read(
        cls, mapping: Mapping[str, Any], *, origins: Mapping[str, str] | None = None, presets: Presets | None = None
    ) -> tuple[Config, tuple[ConfigError, ...]]:
        """As ``from_mapping``, with all problems, and defaults in place of what is refused."""
        reader = ConfigReader(mapping, presets or Presets())
        return cls(**reader.read(origins or {})), tuple(reader.problems)

    @property
    def default_model(self) -> str:
        """The name of the model that is meant where none is named."""
        return DEFAULT_MODEL if DEFAULT_MODEL in self.models else next(iter(self.models))

    def reference_of(self, name: str) -> str | None:
        """What users call a model of the config by, a model of its own name or an adapter; None where there is none of that name."""
        if name in self.models:
            return self.models[name].reference
        return name if any(name in model.adapters for model in self.models.values()) else None

    def components(self) -> Iterator[tuple[str, ComponentConfig]]:
        """Kind and config of every component that config names. What several models share is given once."""
        seen: set[str] = set()
        for model in self.models.values():
            for kind, component in model.components():
                if component.path not in seen:
                    seen.add(component.path)
                    yield kind, component
        yield from (("task", task) for task in self.tasks.values())
        yield from (("observer", observer) for observer in self.observers)
        yield from (("guard", guard) for guard in self.guards)
        yield from (("server", server) for server in self.servers)
        if self.servers or self.access.use != DEFAULT_ACCESS:
            yield "access", self.access
        yield from (("source", source) for source in self.sources.values())
        yield from (("format", each) for each in self.formats.values())
        yield from (("suite", suite) for suite in self.suites)
        yield from self.reached.items()

    def configured(self, kind: str) -> ComponentConfig:
        """The component of a kind of ``REACHED`` that config names, else the usual one. Raises ``KeyError`` for other kinds."""
        return self.reached.get(kind) or usual_component(kind)

    def to_mapping(self) -> dict[str, Any]:
        """All values, defaults too, in the form that ``from_mapping`` reads."""
        found: dict[str, Any] = {"seed": self.seed, "offline": self.offline}
        resources = {key: value for key, value in unstructure(self.resources).items() if value is not None}
        if resources:
            found["resources"] = resources
        if self.security != SecurityConfig():
            found["security"] = {key: value for key, value in unstructure(self.security).items() if value is not None}
        for name, model in self.models.items():
            table = {"source": model.source, "allow_pickle": model.allow_pickle, "replicas": unstructure(model.elastic or model.replicas)}
            if model.context_length is not None:
                table["context_length"] = model.context_length
            for key in ("system", "sampling", "messages", "chat_template", "adapters"):
                if value := getattr(model, key):
                    table[key] = unstructure(value)
            composed = {
                "loader": model.loader.to_mapping(),
                "accelerate": [stage.to_mapping() for stage in model.accelerate],
                "scheduler": model.scheduler.to_mapping(),
                "placement": model.placement.to_mapping(),
            }
            if name == DEFAULT_MODEL:
                found |= {"model": table, **composed}
            else:
                found.setdefault("models", {})[name] = {**table, **composed}
        if self.tasks:
            found["tasks"] = {name: task.to_mapping() for name, task in self.tasks.items()}
        if self.observers:
            found["observers"] = [observer.to_mapping() for observer in self.observers]
        if self.guards:
            found["guard"] = [guard.to_mapping() for guard in self.guards]
        if self.servers:
            found["server"] = [server.to_mapping() for server in self.servers]
        if self.servers or self.access.use != DEFAULT_ACCESS:
            found["access"] = self.access.to_mapping()
        if self.sources:
            found["sources"] = {name: source.to_mapping() for name, source in self.sources.items()}
        if self.formats:
            found["formats"] = {name: each.to_mapping() for name, each in self.formats.items()}
        if self.suites:
            found["suites"] = [suite.to_mapping() for suite in self.suites]
        found |= {kind: component.to_mapping() for kind, component in self.reached.items()}
        return found

    def origin(self, path: str) -> str:
        """Where the value at a dotted path was set; ``default`` where it was not."""
        return self.origins.get(path, "default")
