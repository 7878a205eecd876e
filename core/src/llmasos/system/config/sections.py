"""The sections of config as plain data. The options of plugins stay as they were written until their plugin is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import attrs

from llmasos.system.bounded import FETCH_SECONDS, LOAD_SECONDS, STAGE_SECONDS
from llmasos.system.catalog import default_component, reference_forms
from llmasos.system.config.presets import Preset, Presets, laid_over
from llmasos.system.options import find_problems, structure_options, unstructure
from llmasos.system.options.words import dotted, found_in_words, value_in_words
from llmasos_hookspecs import ConfigError
from llmasos_hookspecs.nearest import did_you_mean, nearest
from llmasos_hookspecs.sizes import parse_size

T = TypeVar("T")

#: The name of the model that the ``[model]`` table describes.
DEFAULT_MODEL: Final = "default"

#: What stands where config says nothing.
DEFAULT_SOURCE: Final = "smollm2"
#: Each is a process with weights of its own; no machine holds more.
MAX_REPLICAS: Final = 1024
#: Threads of one process, and tokens of one sequence, beyond what any system starts or any model reads.
MAX_THREADS: Final = 4096
MAX_CONTEXT: Final = 2**31 - 1
DEFAULT_LOADER: Final = "auto"
DEFAULT_SCHEDULER: Final = default_component("scheduler")
#: Where replicas run; a model with one replica runs in this process.
DEFAULT_PLACEMENT: Final = "local"
#: The kinds with a table of their own that other components reach: tasks and verbs, say.
REACHED: Final = ("transcriber", "speaker")
#: Who may use the servers: every client on the loopback interface of this machine.
DEFAULT_ACCESS: Final = "open"


@attrs.frozen
class ComponentConfig:
    """One component as config names it.

    Attributes:
        use: a name, ``dist:name``, or ``auto`` for loaders.
        options: the other keys of its table, not yet checked against the plugin's own options.
        tune: with ``auto``: time the loaders that take a model at its first load on this machine, and take the fastest.
        path: where it stands, such as ``accelerate[1]``; not compared.
    """

    use: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    path: str = attrs.field(default="", eq=False)
    tune: bool = False

    def to_mapping(self) -> dict[str, Any]:
        return {"use": self.use, **({"tune": True} if self.tune else {}), **unstructure(self.options)}


def _count_of_replicas(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, int) and not 1 <= value <= MAX_REPLICAS:
        raise ConfigError(f"{attribute.name} is {value}, and it must be from 1 to {MAX_REPLICAS}.")


def _not_less_than_min(table: ReplicaRange, _: object, value: int) -> None:
    if value < table.min:
        raise ConfigError(f"max is {value} and min is {table.min}; max must not be less.")


@attrs.frozen(kw_only=True)
class ReplicaRange:
    """How many replicas a model has, by what they have to do."""

    min: int = attrs.field(default=1, validator=_count_of_replicas, metadata={"help": "Replicas that there are always."})
    max: int = attrs.field(
        validator=[_count_of_replicas, _not_less_than_min],
        metadata={"help": "Replicas that there are at most; memory and cores are shared out among so many."},
    )
    queue: int = attrs.field(
        default=4,
        validator=attrs.validators.ge(1),
        metadata={"help": "Requests that may wait for each replica before another one is started."},
    )
    ttft: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={"help": "Seconds to the first token of 95 % of the requests, beyond which another replica is started."},
    )
    idle: float = attrs.field(
        default=60.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds after which a replica that is not needed ends, once it has finished what it has."},
    )


def usual_component(kind: str) -> ComponentConfig:
    """The component of a kind of ``REACHED`` where config names none. Raises ``KeyError`` for kinds that have none."""
    if kind not in REACHED:
        raise KeyError(kind)
    return ComponentConfig(default_component(kind), path=kind)


@attrs.frozen(kw_only=True)
class ModelTable:
    """The keys of ``[model]`` that are core's own."""

    source: str = attrs.field(
        default=DEFAULT_SOURCE,
        validator=attrs.validators.min_len(1),
        metadata={"help": f"The model: an alias, a folder, a file, {reference_forms()}."},
    )
    preset: str = attrs.field(
        default="", metadata={"help": "A preset (llmasos models create) whose values hold where this config sets none of its own."}
    )
    system: str = attrs.field(default="", metadata={"help": "System message of chats that have none of their own."})
    messages: tuple[dict[str, str], ...] = attrs.field(
        default=(), metadata={"help": "Messages (role, content) that stand before those of every chat, as examples for the model."}
    )
    sampling: dict[str, Any] = attrs.field(
        factory=dict, metadata={"help": "Options of a generation, such as temperature, where a request gives none of its own."}
    )
    chat_template: str = attrs.field(default="", metadata={"help": "A jinja2 chat template in place of the model's own."})
    adapters: dict[str, str] = attrs.field(
        factory=dict,
        metadata={"help": "LoRA adapters, name to folder (PEFT's form): requests choose one, and each is a model of its name."},
    )
    context_length: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional([attrs.validators.ge(1), attrs.validators.le(MAX_CONTEXT)]),
        metadata={"help": "Tokens that one sequence can hold; left out: the model's own, as far as memory allows."},
    )
    allow_pickle: bool = attrs.field(default=False, metadata={"help": "Read pickle files too, with weights_only."})
    replicas: int | ReplicaRange = attrs.field(
        default=1,
        validator=_count_of_replicas,
        metadata={
            "help": "Processes that serve the model, each with weights of its own; 1: none beside the program's. A table with min and max: "
            "as many as the requests need."
        },
    )


@attrs.frozen(kw_only=True)
class ModelConfig:
    """One model with all that composes it.

    Attributes:
        preset: where the values come from that config does not set; empty without one.
        replicas: how many there are at most.
        elastic: how many there are at a time; None: all of them.
    """

    name: str
    source: str
    preset: str = attrs.field(default="", eq=False)
    system: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    sampling: Mapping[str, Any] = attrs.field(factory=dict)
    chat_template: str = ""
    adapters: Mapping[str, str] = attrs.field(factory=dict)
    context_length: int | None
    allow_pickle: bool
    replicas: int = 1
    elastic: ReplicaRange | None = None
    loader: ComponentConfig
    accelerate: tuple[ComponentConfig, ...]
    scheduler: ComponentConfig
    placement: ComponentConfig = ComponentConfig(DEFAULT_PLACEMENT, path="placement")

    @property
    def reference(self) -> str:
        """What users call the model by: its preset's name, else its source."""
        return self.preset or self.source

    @property
    def placed(self) -> bool:
        """Whether the model runs in other processes, which its placement starts."""
        return self.replicas > 1 or self.placement.use != DEFAULT_PLACEMENT

    def components(self) -> Iterator[tuple[str, ComponentConfig]]:
        """Kind and config of each component that the model is composed of."""
        yield "loader", self.loader
        for stage in self.accelerate:
            yield "accelerator", stage
        yield "scheduler", self.scheduler
        if self.placed:
            yield "placement", self.placement


@attrs.frozen(kw_only=True)
class ResourcesConfig:
    """What the pipeline may use."""

    memory: int | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(parse_size),
        metadata={"help": 'Bytes for weights and KV of all models together, or a text such as "6GiB"; left out: no bound.'},
    )
    threads: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional([attrs.validators.ge(1), attrs.validators.le(MAX_THREADS)]),
        metadata={"help": "Compute threads; left out: as many as the process may use cores."},
    )
    reserve: int | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(parse_size),
        metadata={
            "help": 'Bytes of the memory that models leave free, for activations and the program itself, or a text such as "256MiB".'
        },
    )
    keep_alive: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.ge(0)),
        metadata={"help": "Seconds after its last use when a model is unloaded; left out: when another one needs its memory."},
    )
    step_timeout: float = attrs.field(
        default=600.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds after which a step that has not ended makes the model lost, and its callers are told; inf: never."},
    )
    load_timeout: float = attrs.field(
        default=LOAD_SECONDS,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds after which a load, or a hook that makes a scheduler or a task, is given up with an error; inf: never."},
    )
    fetch_timeout: float = attrs.field(
        default=FETCH_SECONDS,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds without progress after which a source's fetch is given up with an error; inf: never."},
    )
    stage_timeout: float = attrs.field(
        default=STAGE_SECONDS,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds without progress after which an accelerator stage is given up with an error; inf: never."},
    )
    task_timeout: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={"help": "Seconds after which a task's requests end, and a task that does not return is given up; left out: never."},
    )
    guard_timeout: float = attrs.field(
        default=30.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds that a guard may take for one text or piece of an answer; then the request fails."},
    )
    max_waiting: int = attrs.field(
        default=256,
        validator=attrs.validators.ge(1),
        metadata={"help": "Requests of servers that may wait for a model that is being loaded, or for memory; others are refused."},
    )
    stage_cache: int | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(parse_size),
        metadata={
            "help": "Bytes of disk for the results of accelerator stages, those used longest ago going first, or a text such as "
            '"20GiB", which is the default.'
        },
    )
    loader_cache: int | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(parse_size),
        metadata={
            "help": "Bytes of disk for what loaders build of models, those used longest ago going first, or a text such as "
            '"20GiB", which is the default.'
        },
    )


#: Keys of ``[resources]`` that are bytes, or a text with a unit.
SIZES: Final = tuple(field.name for field in attrs.fields(ResourcesConfig) if field.converter is not None)


@attrs.frozen(kw_only=True)
class SecurityConfig:
    """What the files of a model must have before it is loaded."""

    require: str | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.in_(("signed", "sealed"))),
        metadata={
            "help": '"signed": load only models that a trusted key signed; "sealed": only those that are encrypted; left out: any model.'
        },
    )
    trusted: tuple[str, ...] = attrs.field(
        default=(),
        converter=tuple,
        metadata={"help": "Public keys that may sign. Where there are any, a sealed model must be signed by one of them."},
    )


@attrs.frozen(kw_only=True)
class GlobalTable:
    """The keys of config that stand outside of any table."""

    seed: int = attrs.field(
        default=0,
        validator=[attrs.validators.ge(0), attrs.validators.lt(2**63)],
        metadata={"help": "Seed of all that is random."},
    )
    offline: bool = attrs.field(default=False, metadata={"help": "Never use the network."})


_TABLES: Final = (
    *("model", "accelerate", "loader", "scheduler", "placement", "resources", "tasks", "observers", "guard", "server", "access"),
    *("sources", "formats", "suites", "security", "models", *REACHED),
)
_COMPOSED: Final = ("loader", "accelerate", "scheduler", "placement")


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
    access: ComponentConfig = ComponentConfig(DEFAULT_ACCESS, path="access")
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
        reader = _Reader(mapping, presets or Presets())
        return reader.read(origins or {}), tuple(reader.problems)

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


class _Reader:
    """Reads a mapping and collects every problem on the way."""

    def __init__(self, mapping: Mapping[str, Any], presets: Presets) -> None:
        self.mapping = mapping
        self.presets = presets
        self.problems: list[ConfigError] = []
        #: As ``Config.origins``: of the values that come from presets.
        self.origins: dict[str, str] = {}

    def read(self, origins: Mapping[str, str]) -> Config:
        plain = {key: value for key, value in self.mapping.items() if key not in _TABLES}
        own = self._section(GlobalTable, plain, "", also=_TABLES)
        resources = self._section(ResourcesConfig, self._table("resources"), "resources")
        security = self._section(SecurityConfig, self._table("security"), "security")
        return Config(
            models=self._models(),
            tasks=self._named("tasks"),
            sources=self._named("sources"),
            formats=self._named("formats"),
            suites=self._components(self.mapping.get("suites", ()), "suites"),
            reached={kind: self._component(self.mapping[kind], kind, default_component(kind)) for kind in REACHED if kind in self.mapping},
            observers=self._components(self.mapping.get("observers", ()), "observers"),
            guards=self._components(self.mapping.get("guard", ()), "guard"),
            servers=self._components(self.mapping.get("server", ()), "server"),
            access=self._component(self.mapping.get("access", {}), "access", DEFAULT_ACCESS),
            resources=resources,
            security=security,
            seed=own.seed,
            offline=own.offline,
            origins={**self.origins, **origins},
        )

    def _models(self) -> dict[str, ModelConfig]:
        named, model = self._table("models"), self._table("model")
        # Whatever a model's own table leaves out is what the top level says; [model]'s source and preset excepted, which are one model's.
        shared = {key: self.mapping[key] for key in _COMPOSED if key in self.mapping}
        inherited = {key: item for key, item in model.items() if key not in ("source", "preset")}
        found = {}
        if not named or "source" in model or "preset" in model:
            found[DEFAULT_MODEL] = self._model(DEFAULT_MODEL, model, shared, {}, "model")
        else:
            self._section(ModelTable, model, "model")
        for name, value in named.items():
            path = dotted("models", name)
            if not isinstance(value, Mapping):
                self._refuse(path, f"{path} is {found_in_words(value)}, and it must be a table.")
                continue
            if name in found:
                self._refuse(path, f'{path} is the name of the [model] table\'s own model; give it another name than "{name}".')
                continue
            if "source" not in value and "preset" not in value:
                self._refuse(f"{path}.source", f"{path}.source must be set, to a model: an alias, a path, {reference_forms()}.")
            own = {key: item for key, item in value.items() if key not in _COMPOSED}
            composed = {key: item for key, item in value.items() if key in _COMPOSED}
            found[name] = self._model(name, own, composed, {**shared, "model": inherited}, path)
        self._check_adapters(found)
        return found

    def _check_adapters(self, models: Mapping[str, ModelConfig]) -> None:
        """Adapters are served as models, so no two things may have one name."""
        taken = dict.fromkeys(models, "a model")
        for name, model in models.items():
            for adapter in model.adapters:
                path = dotted(dotted("model" if name == DEFAULT_MODEL else dotted("models", name), "adapters"), adapter)
                if not adapter or adapter in taken:
                    self._refuse(
                        path, f"{path}: {value_in_words(adapter)} names {taken.get(adapter, 'nothing')} already; give another name."
                    )
                taken[adapter] = f"an adapter of the model {name}"

    def _model(self, name: str, own: Mapping[str, Any], composed: Mapping[str, Any], shared: Mapping[str, Any], path: str) -> ModelConfig:
        """A model. What its tables ``own`` and ``composed`` say holds, then what its preset says, then what all models share."""
        chain = self._presets_of(own, path)
        preset: dict[str, Any] = {}
        for each in reversed(chain):
            preset = laid_over(preset, each.tables)
        if chain and "source" in (first := chain[-1].tables.get("model", {})):
            preset["model"] = {**preset["model"], "source": first["source"]}
        if chain and not own.get("preset"):
            own = {key: item for key, item in own.items() if key != "source"}
        of_preset = preset.get("model", {})
        also = _COMPOSED if path != "model" else ()
        table = self._section(ModelTable, laid_over({**shared.get("model", {}), **of_preset}, own), path, also=also)

        def place(key: str) -> tuple[Any, str]:
            """Value and path of a component, or of the stages."""
            if key in composed or key in preset:
                value = laid_over(preset.get(key), composed[key]) if key in composed else preset[key]
                return value, key if path == "model" else f"{path}.{key}"
            return shared.get(key, () if key == "accelerate" else {}), key

        for key, value in {**{f"{path}.{key}": value for key, value in of_preset.items()}, **preset}.items():
            if key != "model":
                self.origins |= dict.fromkeys(_leaves(value, place(key)[1] if key in _COMPOSED else key), str(chain[0].path))
        return ModelConfig(
            name=name,
            source=table.source,
            preset=chain[0].name if chain else "",
            system=table.system,
            messages=table.messages,
            sampling=table.sampling,
            chat_template=table.chat_template,
            adapters=table.adapters,
            context_length=table.context_length,
            allow_pickle=table.allow_pickle,
            replicas=table.replicas if isinstance(table.replicas, int) else table.replicas.max,
            elastic=None if isinstance(table.replicas, int) else table.replicas,
            loader=self._component(*place("loader"), DEFAULT_LOADER),
            accelerate=self._components(*place("accelerate")),
            scheduler=self._component(*place("scheduler"), DEFAULT_SCHEDULER),
            placement=self._component(*place("placement"), DEFAULT_PLACEMENT),
        )

    def _presets_of(self, own: Mapping[str, Any], path: str) -> tuple[Preset, ...]:
        """The presets that a model's table names, the one that it names first."""
        named, where = (own["preset"], f"{path}.preset") if own.get("preset") else (own.get("source"), f"{path}.source")
        if not isinstance(named, str):
            return ()
        try:
            chain = tuple(self.presets.chain(named))
        except ConfigError as error:
            self._refuse(where, str(error))
            return ()
        if not chain and own.get("preset"):
            known = self.presets.names()
            self._refuse(where, f'{where} is "{named}", and there is no such preset{did_you_mean(named, known)}')
        return chain

    def _section(self, cls: type[T], value: Mapping[str, Any], path: str, also: tuple[str, ...] = ()) -> T:
        found = find_problems(cls, value, path, also=also)
        self.problems.extend(found)
        own = {key: item for key, item in value.items() if key not in also}
        return structure_options(cls, {} if found else own, path)

    def _table(self, key: str) -> Mapping[str, Any]:
        value = self.mapping.get(key, {})
        if isinstance(value, Mapping):
            return value
        self._refuse(key, f"{key} is {found_in_words(value)}, and it must be a table.")
        return {}

    def _named(self, key: str) -> dict[str, ComponentConfig]:
        """A table of components, each named as its ``use`` unless it says otherwise."""
        return {name: self._component(value, dotted(key, name), name) for name, value in self._table(key).items()}

    def _components(self, value: Any, path: str) -> tuple[ComponentConfig, ...]:
        if not isinstance(value, list | tuple):
            self._refuse(path, f"{path} is {found_in_words(value)}, and it must be an array of tables, each begun with [[{path}]].")
            return ()
        return tuple(self._component(each, f"{path}[{i}]", None) for i, each in enumerate(value))

    def _component(self, value: Any, path: str, default: str | None) -> ComponentConfig:
        if isinstance(value, ComponentConfig):
            return attrs.evolve(value, path=path)
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, Mapping):
            self._refuse(path, f"{path} is {found_in_words(value)}, and it must be a name, or a table with the key use.")
            return ComponentConfig(default or "", {}, path)
        use = value.get("use", default)
        if not isinstance(use, str) or not use:
            close = None if "use" in value else nearest("use", map(str, value))
            hint = f"; did you mean it by {value_in_words(close)}?" if close else "."
            known = (
                "must be set, to the name of an installed component" if use is None else f"is {found_in_words(use)}, and it must be a name"
            )
            self._refuse(f"{path}.use", f"{path}.use {known}{hint}")
            use = default or ""
        options = {str(key): item for key, item in value.items() if key != "use"}
        tune = options.pop("tune", False) if use == default == DEFAULT_LOADER else False
        if not isinstance(tune, bool):
            self._refuse(f"{path}.tune", f"{path}.tune is {found_in_words(tune)}, and it must be true or false.")
        return ComponentConfig(use, options, path, tune is True)

    def _refuse(self, path: str, sentence: str) -> None:
        self.problems.append(ConfigError(sentence, path))


def _leaves(value: Any, path: str) -> Iterator[str]:
    """Dotted paths of all values below one, itself where there are none."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, dotted(path, key))
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{path}[{place}]")
    else:
        yield path
