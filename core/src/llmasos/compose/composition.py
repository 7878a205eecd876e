"""Composes a model: reference -> source -> checkpoint -> accelerators -> loader -> engine -> scheduler -> loop."""

from __future__ import annotations

import functools
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from llmasos.checkpoints import storage_notes
from llmasos.compose.component_maker import MAX_SEQUENCES, ComponentMaker
from llmasos.compose.generation_params import Defaults
from llmasos.compose.host import ModelHost, OpenedModel
from llmasos.compose.loader_timing import TIMINGS, KeptTimings, time_loaders
from llmasos.compose.process import ProcessResources
from llmasos.compose.prompts import PromptEncoder
from llmasos.compose.running_encoder import RunningEncoder
from llmasos.compose.running_model import Policy, Running, RunningModel
from llmasos.compose.security import check_security
from llmasos.compose.sources import SourcePrompts
from llmasos.system.components import LoadedComponent
from llmasos.system.context import ProgressSink
from llmasos.system.discovery import Registry
from llmasos.system.loader_choice import LoaderChoice, choose_loader, installed_loaders, misfit, refusal, taker, without_adapters
from llmasos.system.sources import resolve
from llmasos_config import ComponentConfig, Config, ModelConfig
from llmasos_config.aliases import Aliases
from llmasos_config.components import DEFAULT_ACCESS, DEFAULT_LOADER, DEFAULT_PLACEMENT
from llmasos_engine.encoder_loop import EncoderLoop
from llmasos_engine.ledger import kv_capacity
from llmasos_engine.loop import EngineLoop
from llmasos_engine.step_meter import Listeners
from llmasos_hookspecs import (
    Adapter,
    Checkpoint,
    Encoder,
    EncoderInfo,
    Engine,
    EngineInfo,
    EngineLimits,
    LLMasOSError,
    SeatSpec,
    UnsupportedModel,
    is_sealed,
)
from llmasos_hookspecs.guarding.edge import crossing
from llmasos_isolation.children import search_path
from llmasos_model_store.builds import Builds
from llmasos_model_store.folders import cache_folder, working_cache_folder
from llmasos_model_store.store import Store
from llmasos_options import structure_options
from llmasos_residency.kv_share import SharedKVLedger
from llmasos_residency.measurements import Measurements, watch_peak
from llmasos_residency.memory import Account, Budget
from llmasos_residency.prediction import Need, predict
from llmasos_residency.residency import Residency

if TYPE_CHECKING:
    from llmasos.acceleration import AccelerationReport
    from llmasos.acceleration.backend import Backend

#: Bytes of what loaders built that are kept where config does not say.
_LOADER_CACHE: Final = 20 << 30
#: Bytes of weights whose digest takes less than a second; the load of so few is measured even without a memory budget.
_QUICK_DIGEST: Final = 1 << 30


class Composer(ComponentMaker):
    """Makes the models of one pipeline, and all else that its config names."""

    def __init__(
        self, config: Config, *, registry: Registry, store: Store, aliases: Aliases, sink: ProgressSink, process: ProcessResources
    ) -> None:
        super().__init__(config, registry=registry, store=store, sink=sink)
        self.budget: Final = Budget("resources.memory", config.resources.memory, config.resources.reserve or 0)
        self._process = process
        self._measurements = Measurements(cache_folder() / "loads")
        self._timings = KeptTimings(cache_folder() / TIMINGS)
        self._aliases = aliases
        for observer in config.observers:  # broken ones are found before anything is loaded
            self.component("observer", observer.use)

    @property
    def residency(self) -> Residency:
        """Decides which models of the process are in memory."""
        return self._process.residency

    def host(self, model: ModelConfig, listeners: Listeners) -> ModelHost:
        """The host of a model, which is opened and loaded at its first use."""
        return ModelHost(
            model.name,
            model.scheduler,
            source=model.reference,
            defaults=Defaults(system=model.system, messages=model.messages, sampling=model.sampling),
            open_model=functools.partial(self.open, model),
            predict=functools.partial(self.predict, model),
            load=functools.partial(self.load, model, listeners=listeners),
            residency=self._process.residency,
            budgets=(self.budget, self._process.budget),
            keep_alive=self.config.resources.keep_alive if self.config.resources.keep_alive is not None else self._process.keep_alive,
        )

    def open(self, model: ModelConfig) -> OpenedModel:
        """Fetch the checkpoint, run the accelerator stages (or find their result), and read tokenizer and template."""
        canonical, checkpoint = self.fetch(model)
        checkpoint = self.accelerate(checkpoint, model.accelerate)
        prompts = PromptEncoder.of(checkpoint, model.chat_template)
        return OpenedModel(reference=model.reference, source=canonical, checkpoint=checkpoint, prompts=prompts)

    def fetch(self, model: ModelConfig) -> tuple[str, Checkpoint]:
        """The canonical reference of a model, and its checkpoint before any accelerator stage."""
        found = resolve(
            model.source,
            registry=self._registry,
            store=self._store,
            aliases=self._aliases,
            offline=self.config.offline,
            allow_pickle=model.allow_pickle,
            sink=self._sink,
            sources=self.config.sources.values(),
            bounds=self.bounds,
        )
        for sentence in found.warnings:
            warnings.warn(sentence, UserWarning, stacklevel=2)
        checkpoint = self.formats(model.allow_pickle).open(found.path)
        check_security(checkpoint, self.config.security)
        return found.canonical, checkpoint

    def accelerate(self, checkpoint: Checkpoint, stages: Sequence[ComponentConfig]) -> Checkpoint:
        """The checkpoint after the accelerator stages; stages that ran before come from the cache."""
        if not stages:
            return checkpoint
        return self.formats().open(self.accelerate_and_report(checkpoint, stages).path)

    def check_plan(self, model: ModelConfig) -> None:
        """Raise ``AccelerationError`` where the model's stages cannot run, with every problem; the model is fetched, and no weight read."""
        from llmasos.acceleration.plan import plan_stages

        find = functools.partial(self.component, "accelerator")
        plan_stages(self.fetch(model)[1], model.accelerate, find, open_checkpoint=self.formats().open, bound=self.bounds.load)

    def accelerate_and_report(self, checkpoint: Checkpoint, stages: Sequence[ComponentConfig], **how: Any) -> AccelerationReport:
        """Run accelerator stages; ``how`` are the keyword arguments of ``run_acceleration``."""
        from llmasos.acceleration import run_acceleration
        from llmasos.acceleration.run import Accelerators

        accelerators = Accelerators(
            find=functools.partial(self.component, "accelerator"),
            call=self.plugins.call,
            context=self.context,
            bound=self.bounds.load,
            open_checkpoint=self.formats().open,
        )
        return run_acceleration(
            checkpoint,
            stages,
            accelerators,
            cache=working_cache_folder() / "acceleration",
            cache_limit=self.config.resources.stage_cache,
            seed=self.config.seed,
            sink=self._sink,
            **how,
        )

    def predict(self, model: ModelConfig, opened: OpenedModel) -> Need:
        """The memory that loading the model will take: measured by an earlier load, else estimated from the headers."""
        loader = self.loader(model, opened.checkpoint)
        measured = self._measurements.find(self._measurement_key(model, opened, loader))
        estimate = None if measured else self._engine_hook(model, opened.checkpoint, loader, "llmasos_predict")
        need = predict(opened.checkpoint, estimate, context_length=model.context_length, measured=measured)
        if not model.placed:
            return need
        memory = self._memory_of_replica(model) or need.weights
        slots = self.policy(model.scheduler).max_sequences * need.context_length
        return _replicated(need, model.replicas, min(memory, need.weights + slots * need.kv_bytes_per_token))

    def load(
        self,
        model: ModelConfig,
        opened: OpenedModel,
        scheduler: ComponentConfig,
        account: Account,
        on_lost: Callable[[], None],
        *,
        listeners: Listeners,
    ) -> Running:
        """Make the engine and the policy, and start the loop, whose KV cache draws on ``account``; or start the model's replicas.
        ``on_lost`` is called where these end by themselves. An encoder has no policy and no KV cache."""
        if model.loader.tune:
            self._time_loaders(model, opened.checkpoint)
        if model.placed:
            return self._start_replicas(model, opened, scheduler, on_lost, listeners)
        policy = self.policy(scheduler)
        choice, load = self.engine_maker(model, opened.checkpoint, max_sequences=policy.max_sequences)
        loader = choice.loader
        began = time.monotonic()
        with watch_peak() as peak:
            engine = load()
        Builds().trim(_LOADER_CACHE if self.config.resources.loader_cache is None else self.config.resources.loader_cache)
        info: EngineInfo | EncoderInfo = engine.info
        info = attrs.evolve(info, notes=(*choice.notes, *storage_notes(opened.checkpoint), *info.notes))
        try:
            sources = None if isinstance(info, EncoderInfo) else _sources(info, opened)
        except BaseException:
            engine.shutdown()
            raise
        held, kv_bytes = (
            (info.weight_bytes + info.batch_bytes, 0) if isinstance(info, EncoderInfo) else (info.fixed_bytes, info.kv_bytes_per_token)
        )
        need = Need(
            weights=held,
            peak=max(held, peak.bytes),
            kv_bytes_per_token=kv_bytes,
            context_length=info.context_length,
            load_seconds=time.monotonic() - began,
            measured=True,
        )
        if self._memory() is not None or info.weight_bytes < _QUICK_DIGEST:
            self._measurements.add(self._measurement_key(model, opened, loader), need)
        if isinstance(info, EncoderInfo):
            loop_of_encoder = EncoderLoop(
                cast("Encoder", engine),
                model=model.name,
                context_length=model.context_length,
                rebuild=cast("Callable[[], Encoder]", load),
                on_lost=on_lost,
                on_finished=listeners.finished,
                step_timeout=self.config.resources.step_timeout,
                label=loader.entry.label,
            )
            return RunningEncoder.of(model.name, info, loop_of_encoder, opened.prompts.tokenizer, loader.entry.label, need)
        memory = self._process.residency.memory
        loop = EngineLoop(
            cast("Engine", engine),
            policy.policy,
            tokenizer=opened.prompts.tokenizer,
            model=model.name,
            max_sequences=policy.max_sequences,
            step_tokens=policy.step_tokens,
            context_length=model.context_length,
            ledger=SharedKVLedger(kv_capacity(info, self._memory()), memory, memory.share(account)),
            rebuild=cast("Callable[[], Engine]", load),
            on_lost=on_lost,
            on_finished=listeners.finished,
            on_started=listeners.started,
            on_step=listeners.step,
            step_timeout=self.config.resources.step_timeout,
            engine_label=loader.entry.label,
            policy_label=policy.label,
            bounds=policy.bounds,
        )
        return RunningModel(
            name=model.name,
            info=info,
            loop=loop,
            prompts=opened.prompts,
            sources=sources,
            loader=loader.entry.label,
            loader_choice=choice.sentence,
            need=need,
            switch=functools.partial(_use_policy, loop),
        )

    def _start_replicas(
        self,
        model: ModelConfig,
        opened: OpenedModel,
        scheduler: ComponentConfig,
        on_lost: Callable[[], None],
        listeners: Listeners,
    ) -> RunningModel:
        # A model in this process does not pay for it.
        from llmasos.compose.replicas import WORKER_ENTRY, ReplicaSet, WorkerSpec, cores_of_seat

        resources = self.config.resources
        memory = self._memory_of_replica(model)
        need = self.predict(model, opened)
        placement, label = self.placement(model.placement)
        with crossing(label, "hosts"):
            cores = cores_of_seat(placement.hosts(), model.replicas)
        given = resources.threads or self._process.threads
        threads = given // model.replicas if given else cores
        served = attrs.evolve(
            model,
            source=str(opened.checkpoint.path),
            adapters={name: str(self._adapter_folder(reference)) for name, reference in model.adapters.items()},
            accelerate=(),
            scheduler=scheduler,
            replicas=1,
            elastic=None,
            placement=ComponentConfig(DEFAULT_PLACEMENT),
        )
        config = attrs.evolve(
            self.config,
            models={model.name: served},
            tasks={},
            observers=(),
            guards=(),  # texts pass them in this process
            servers=(),
            access=ComponentConfig(DEFAULT_ACCESS),
            sources={},
            resources=attrs.evolve(resources, memory=memory, threads=max(1, threads), reserve=None, keep_alive=None),
        )
        fetched = attrs.evolve(served, source=opened.source, accelerate=model.accelerate)
        specs = [
            WorkerSpec(
                config=config,
                elsewhere=attrs.evolve(config, models={model.name: fetched}, sources=self.config.sources),
                digest=opened.checkpoint.digest,
                seat=SeatSpec(
                    model=model.name,
                    number=number,
                    entry=WORKER_ENTRY,
                    path=tuple(search_path()),
                    cpus=cores,
                    memory=need.weights // model.replicas,
                ),
            )
            for number in range(model.replicas)
        ]
        replicas = ReplicaSet(
            model.name,
            specs,
            placement,
            label=label,
            seed=self.config.seed,
            on_lost=on_lost,
            listeners=listeners,
            elastic=model.elastic,
            bounds=self.policy(scheduler).bounds,
            step_timeout=resources.step_timeout,
            load_timeout=resources.load_timeout,
        )
        ready = replicas.ready
        held = ready.info.fixed_bytes + ready.kv_capacity * ready.info.kv_bytes_per_token
        return RunningModel(
            name=model.name,
            info=ready.info,
            loop=replicas,
            prompts=opened.prompts,
            sources=_sources(ready.info, opened),
            loader=ready.loader,
            loader_choice=self.loader_choice(model, opened.checkpoint).sentence,
            switch=lambda scheduler, policy: replicas.use_scheduler(scheduler, policy.bounds),
            need=_replicated(ready.need, model.replicas, min(memory or ready.info.fixed_bytes, held)),
        )

    def _memory_of_replica(self, model: ModelConfig) -> int | None:
        memory = self._memory()
        return None if memory is None else max(1, memory // model.replicas)

    def engine_maker(
        self, model: ModelConfig, checkpoint: Checkpoint, *, max_sequences: int = MAX_SEQUENCES
    ) -> tuple[LoaderChoice, Callable[[], Engine | Encoder]]:
        """The loader for a checkpoint, and a function that makes an engine, or an encoder, with it."""
        choice = self.loader_choice(model, checkpoint)
        return choice, functools.partial(self._engine_hook, model, checkpoint, choice.loader, "llmasos_load", max_sequences)

    def _engine_hook(
        self, model: ModelConfig, checkpoint: Checkpoint, loader: LoadedComponent, hook: str, max_sequences: int = MAX_SEQUENCES
    ) -> Any:
        """The result of one of the loader's hooks for the checkpoint, within this pipeline's limits."""
        options: Any = structure_options(loader.component.options, model.loader.options, model.loader.path)
        limits = EngineLimits(
            threads=self.config.resources.threads or self._process.threads,
            max_sequences=max_sequences,
            context_length=model.context_length,
            memory=self._memory(),
        )
        kept = {"cache": None} if is_sealed(checkpoint) else {}
        adapters = {name: self._adapter(name, reference) for name, reference in model.adapters.items()} if hook == "llmasos_load" else {}
        context = self.context(loader, limits=limits, allow_pickle=model.allow_pickle, adapters=adapters, **kept)
        return self.plugins.call(loader, hook, checkpoint=checkpoint, options=options, context=context)

    def _adapter(self, name: str, reference: str) -> Adapter:
        """The adapter of a name."""
        from llmasos_huggingface_folder.adapters import read_adapter  # here, because models without adapters need it not

        return read_adapter(self._adapter_folder(reference), name)

    def _adapter_folder(self, reference: str) -> Path:
        """Where a reference to an adapter leads."""
        found = resolve(
            reference,
            registry=self._registry,
            store=self._store,
            aliases=self._aliases,
            offline=self.config.offline,
            sink=self._sink,
            sources=self.config.sources.values(),
            bounds=self.bounds,
        )
        return found.path

    def backend(self, model: ModelConfig, checkpoint: Checkpoint) -> Backend:
        """The backend for measurements: the model's loader. The float32 reference runs on the same loader with default options, because an
        option that rounds weights would round the reference too."""
        from llmasos.acceleration.backend import Backend

        label = self.loader(model, checkpoint).entry.label
        options = [f"{key} = {json.dumps(value, default=str)}" for key, value in sorted(model.loader.options.items())]
        if options:
            label += f" with {', '.join(options)}"
        plain = attrs.evolve(model, loader=attrs.evolve(model.loader, options={}))
        return Backend(
            label=label,
            load=lambda checkpoint: self._decoder(model, checkpoint),
            load_reference=lambda checkpoint: self._decoder(plain, checkpoint),
            context_length=model.context_length,
        )

    def _decoder(self, model: ModelConfig, checkpoint: Checkpoint) -> Engine:
        """An engine that generates text, for measurements of one."""
        made = self.engine_maker(model, checkpoint)[1]()
        if isinstance(made.info, EncoderInfo):
            made.shutdown()
            raise UnsupportedModel(f"{checkpoint.path} is an encoder, and what is measured here are models that generate text.")
        return made

    def loader(self, model: ModelConfig, checkpoint: Checkpoint) -> LoadedComponent:
        """The loader that config names, or for ``auto`` the preferred one that takes the checkpoint.

        Raises:
            UnsupportedModel: the loader, or every installed one, does not take the checkpoint's format or architecture.
            PluginError: no loader is installed.
        """
        return self.loader_choice(model, checkpoint).loader

    def loader_choice(self, model: ModelConfig, checkpoint: Checkpoint) -> LoaderChoice:
        """The same as ``loader``, with the loaders that ``auto`` passed over."""
        if model.loader.use == DEFAULT_LOADER:
            loaders = installed_loaders(self._registry)
            timings = self._timings.find(checkpoint, loaders) if model.loader.tune else None
            ordered = loaders if timings is None else timings.ordered(loaders)
            chosen = choose_loader(ordered, checkpoint, model.loader, self.bounds.load, adapters=bool(model.adapters))
            return attrs.evolve(chosen, loader=self.plugins.add(chosen.loader.entry), why="" if timings is None else timings.sentence)
        loader = self.component("loader", model.loader.use)
        if model.adapters and (reason := without_adapters(loader)):
            raise UnsupportedModel(f"{reason}; load it by the loader torch, or merge one adapter into the model by the stage merge.")
        reason = refusal(loader, checkpoint, self.bounds.load)
        if reason:
            loaders = installed_loaders(self._registry)
            others = [other.entry.name for other in loaders if other.entry != loader.entry and not misfit(other, checkpoint)]
            cure = f'use = "{others[0]}" may take it' if others else f"no other installed loader takes it{taker(loaders, checkpoint)}"
            raise UnsupportedModel(f"{reason}; {cure}.")
        return LoaderChoice(loader, named=True)

    def _time_loaders(self, model: ModelConfig, checkpoint: Checkpoint) -> None:
        """Time the loaders that take a checkpoint, unless that was done on this machine."""
        loaders = installed_loaders(self._registry)
        if model.loader.use != DEFAULT_LOADER or self._timings.find(checkpoint, loaders) is not None:
            return

        def start(loader: LoadedComponent) -> Engine | Encoder:
            made: Engine | Encoder = self._engine_hook(model, checkpoint, self.plugins.add(loader.entry), "llmasos_load")
            return made

        timings = time_loaders(loaders, checkpoint, model.loader, start, bound=self.bounds.load)
        if timings is not None:
            self._timings.add(checkpoint, loaders, timings)

    def _memory(self) -> int | None:
        """Bytes of memory that one model could use if it were the only one."""
        bounds = [budget.most for budget in (self.budget, self._process.budget) if budget.limit is not None]
        return int(min(bounds)) if bounds else None

    def _measurement_key(self, model: ModelConfig, opened: OpenedModel, loader: LoadedComponent) -> str:
        return Measurements.key(
            digest=opened.checkpoint.digest, loader=loader.entry.label, options=model.loader.options, context_length=model.context_length
        )


def _use_policy(loop: EngineLoop, scheduler: ComponentConfig, policy: Policy) -> None:
    loop.use_policy(
        policy.policy, max_sequences=policy.max_sequences, step_tokens=policy.step_tokens, label=policy.label, bounds=policy.bounds
    )


def _sources(info: EngineInfo, opened: OpenedModel) -> SourcePrompts | None:
    """What makes the prompts of an encoder-decoder; None for an engine that is none."""
    return SourcePrompts.of(opened.checkpoint, opened.prompts.tokenizer) if "source" in info.features else None


def _replicated(need: Need, copies: int, each: int) -> Need:
    """The memory of all replicas: each process reserves its whole KV cache."""
    total = copies * max(need.weights, each)
    return attrs.evolve(need, weights=total, peak=max(total, copies * need.peak), kv_bytes_per_token=0, copies=copies)


def problems_as_one(problems: tuple[LLMasOSError, ...]) -> LLMasOSError | None:
    """The only problem itself, several as one of their kind with a sentence each, or None."""
    if len(problems) < 2:
        return problems[0] if problems else None
    return type(problems[0])(" ".join(str(problem) for problem in problems))
