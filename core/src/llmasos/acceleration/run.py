"""Runs an acceleration plan: each stage turns a checkpoint into the next one, taken from the cache or computed, and is measured."""

from __future__ import annotations

import atexit
import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos.acceleration.backend import Backend
from llmasos.acceleration.cache import CachedStage, StageCache, content_key, model_folder
from llmasos.acceleration.code_digest import code_digest
from llmasos.acceleration.corpus import Corpus
from llmasos.acceleration.coverage import coverage
from llmasos.acceleration.export import check_output, export
from llmasos.acceleration.fitting import fitting_length
from llmasos.acceleration.measuring import OpenModel, StageMeasurer
from llmasos.acceleration.notes import stage_notes
from llmasos.acceleration.plan import PlannedStage, plan_stages
from llmasos.acceleration.report import AccelerationReport, StageReport
from llmasos.acceleration.stage_output import check_stage
from llmasos.acceleration.suites import NamedSuite
from llmasos.checkpoints import storage_notes
from llmasos.system.components import LoadedComponent
from llmasos.system.context import HookContext, ProgressSink, SilentSink
from llmasos_config import ComponentConfig
from llmasos_hookspecs import AccelerationError, AccelerationResult, Checkpoint, LLMasOSError, Measurement, is_sealed
from llmasos_huggingface_folder.finite import check_all
from llmasos_huggingface_folder.manifest import file_records, read_manifest, verify_digest, verify_sizes
from llmasos_huggingface_folder.writer import CheckpointFolderWriter
from llmasos_model_store.digests import file_digest
from llmasos_plugin_calls.bounded import UNBOUNDED, Bound

#: Least share of the weights that a stage must change, of those it could change, unless low coverage is allowed.
LEAST_COVERAGE: Final = 0.9

#: Bytes that finished stages may take on disk where config says nothing.
CACHE_LIMIT: Final = 20 * 2**30

#: Usage locks on results that were left in the cache: no other process removes these before this one ends.
_results: Final = contextlib.ExitStack()
atexit.register(_results.close)


@attrs.frozen(kw_only=True)
class Accelerators:
    """Access to the accelerator plugins.

    Attributes:
        find: imports the component that a ``use`` names; raises ``PluginError``.
        call: calls one component's hook: ``call(loaded, hook, **arguments)``.
        context: makes the context of a hook: ``context(loaded, **fields of HookContext)``.
        bound: of what is asked of an accelerator while the stages are planned; ``call`` bounds its hooks.
        open_checkpoint: opens what a stage wrote, and other models that one reads, in any installed format.
    """

    find: Callable[[str], LoadedComponent]
    call: Callable[..., Any]
    context: Callable[..., HookContext]
    open_checkpoint: Callable[[Path], Checkpoint]
    bound: Bound = UNBOUNDED


def run_acceleration(
    checkpoint: Checkpoint,
    stages: Sequence[ComponentConfig],
    accelerators: Accelerators,
    *,
    cache: Path,
    cache_limit: int | None = None,
    output: Path | None = None,
    backend: Backend | None = None,
    corpus: Corpus | None = None,
    seed: int = 0,
    allow_low_coverage: bool = False,
    sink: ProgressSink | None = None,
    model: str | None = None,
    suites: Sequence[NamedSuite] = (),
    open_model: OpenModel | None = None,
) -> AccelerationReport:
    """Plan the stages, run them one after the other, and measure the checkpoint that each writes.

    Every finished stage is kept under ``cache`` by the digest of all its inputs, so that a run that was killed resumes after the last
    finished stage. Nothing half-written is ever visible, neither there nor at ``output``.

    Args:
        cache_limit: bytes that finished stages may take; beyond it the least recently used are removed, but none that a process uses.
        output: a new folder for the result, with ``report.json`` and, where a suite draws it, ``report.html``; None leaves it in the cache.
        backend: what to measure on; None measures nothing.
        corpus: text to calibrate and evaluate on; None: ``Corpus.default()``.
        allow_low_coverage: accept a stage that changed less than 90 % of what it could.
        model: the base's name in the report; None: its path.
        suites: what measures the base and each stage, where there is a backend; the first that can draws the page.
        open_model: a checkpoint as applications see it, for suites that ask for one.

    Raises:
        AccelerationError: the plan cannot work (with every problem found), a stage failed or left NaN or infinity, or what it left
            predicts NaN.
        CheckpointError: the base, or another model that a stage reads, holds NaN or infinity, or is damaged.
    """
    sink = sink or SilentSink()
    if stages:
        _refuse_sealed(checkpoint)
    plan = plan_stages(
        checkpoint,
        stages,
        accelerators.find,
        also=check_output(output),
        bound=accelerators.bound,
        open_checkpoint=accelerators.open_checkpoint,
    )
    _refuse_sealed(*plan.opened)
    corpus = corpus or Corpus.default()
    measurer = StageMeasurer(base=checkpoint, backend=backend, corpus=corpus, suites=suites, open_model=open_model, cache=cache, sink=sink)
    with contextlib.ExitStack() as uses:
        runner = _StageRunner(
            cache=StageCache(cache / "stages"),
            cache_limit=cache_limit or CACHE_LIMIT,
            uses=uses,
            accelerators=accelerators,
            base=checkpoint,
            corpus=corpus,
            seed=seed,
            allow_low_coverage=allow_low_coverage,
            note=sink.note,
        )
        # Where the first stage is cached, its base was checked for NaN and infinity when it ran.
        if runner.cache.find(runner.key(checkpoint.digest, plan.stages[0])) is None:
            for each in (checkpoint, *plan.opened):
                check_all(each)
        base = measurer.measure(checkpoint, checkpoint.digest, "base")
        reports: list[StageReport] = []
        current, key = checkpoint, checkpoint.digest
        for number, stage in enumerate(plan.stages, 1):
            key = runner.key(key, stage)
            sink.note(f"Stage {number} of {len(plan.stages)}: {stage.name}.")
            finished, cached = runner.run(key, stage, current)
            previous, current = current, accelerators.open_checkpoint(finished.path)
            measured = measurer.measure(current, key, f"{number} {stage.name}")
            reports.append(_stage_report(stage, finished, cached, coverage(previous, current, finished.result), measured))
        notes = [*storage_notes(checkpoint), *(note for each in reports for note in stage_notes(each)), *measurer.notes()]
        report = AccelerationReport(
            path=current.path if output is None else output,
            model=model or str(checkpoint.path),
            base_digest=checkpoint.digest,
            base=base,
            stages=tuple(reports),
            sections=measurer.sections(),
            corpus=corpus.name,
            windows=measurer.windows,
            length=measurer.length,
            backend=None if backend is None else backend.label,
            seed=seed,
            notes=tuple(dict.fromkeys(notes)),
        )
        if output is None:
            runner.use(key, _results)
        else:
            export(current.path, output, report, _page(report, suites))
    return report


def _refuse_sealed(*read: Checkpoint) -> None:
    """Raise where a stage reads a sealed model."""
    for checkpoint in read:
        if is_sealed(checkpoint):
            raise AccelerationError(
                f"{checkpoint.path} is sealed, and what a stage writes would lie in the clear on the disk; unseal the model where that may "
                "be, accelerate it there, and seal the result."
            )


def _stage_report(stage: PlannedStage, finished: CachedStage, cached: bool, share: float, measurement: Measurement | None) -> StageReport:
    return StageReport(
        name=stage.name,
        use=stage.loaded.entry.qualified,
        version=stage.loaded.entry.version,
        options=stage.to_dict()["options"],
        seconds=finished.seconds,
        cached=cached,
        coverage=share,
        touched=len(finished.result.touched),
        skipped=finished.result.skipped,
        report=finished.result.report,
        measurement=measurement,
    )


def _page(report: AccelerationReport, suites: Sequence[NamedSuite]) -> str | None:
    """The report as the first suite draws it that can; None where none can."""
    pages = (suite.page(report.to_page()) for suite in suites)
    return next((page for page in pages if page is not None), None)


@attrs.frozen(eq=False, kw_only=True)
class _StageRunner:
    """Takes the stages of one run from the cache, or computes them. ``uses`` holds locks that keep them from removal."""

    cache: StageCache
    cache_limit: int
    uses: contextlib.ExitStack
    accelerators: Accelerators
    base: Checkpoint
    corpus: Corpus
    seed: int
    allow_low_coverage: bool
    note: Callable[[str], None]

    def key(self, before: str, stage: PlannedStage) -> str:
        """The cache key of a stage whose input has the key ``before``."""
        calibration = self.corpus.digest if stage.calibration else None
        return content_key(
            input=before,
            stage=stage.to_dict(),
            code=code_digest(stage.loaded.module),
            seed=self.seed,
            calibration=calibration,
            base=self.base.digest,
        )

    def run(self, key: str, stage: PlannedStage, current: Checkpoint) -> tuple[CachedStage, bool]:
        """The finished stage, and whether it was cached."""
        with self.cache.lock(key):
            finished = self.cache.find(key)
            if finished is not None and (damage := self._damage(finished.path)):
                self.note(f"The cached result of {stage.name} is damaged ({damage}), and is computed again.")
                finished = None
            cached = finished is not None
            if finished is None:
                with self.cache.workplace(key) as workplace:
                    began = time.perf_counter()
                    result = self._make(stage, current, model_folder(workplace))
                    check_stage(stage, current, result.path, self.accelerators.open_checkpoint)
                    self._check_coverage(stage, current, result)
                    finished = self.cache.keep(key, workplace, result, time.perf_counter() - began)
            else:
                self._check_coverage(stage, current, finished.result)
            self.uses.enter_context(self.cache.in_use(key))
        if not cached:
            self.cache.trim(self.cache_limit)
        return finished, cached

    def use(self, key: str, uses: contextlib.ExitStack) -> None:
        """Lock a cached result against removal until ``uses`` is closed."""
        with self.cache.lock(key):
            uses.enter_context(self.cache.in_use(key))

    def _make(self, stage: PlannedStage, current: Checkpoint, output: Path) -> AccelerationResult:
        loaded = stage.loaded
        context = self.accelerators.context(
            loaded,
            seed=self.seed,
            base=self.base,
            open_checkpoint=self.accelerators.open_checkpoint,
            open_writer=functools.partial(CheckpointFolderWriter, stage={**stage.to_dict(), "seed": self.seed}, digest_of=file_digest),
            calibration_windows=lambda windows, length: self.corpus.calibration_windows(
                current.tokenizer(), windows, fitting_length(current, length)
            ),
        )
        result = self.accelerators.call(
            loaded, "llmasos_accelerate", checkpoint=current, output=output, options=stage.options, context=context
        )
        if not isinstance(result, AccelerationResult) or result.path != output or not output.is_dir():
            raise AccelerationError(
                f"The {loaded.entry.label} did not write its checkpoint to the output it was given; this is a fault of the plugin."
            )
        return result

    def _check_coverage(self, stage: PlannedStage, current: Checkpoint, result: AccelerationResult) -> None:
        share = coverage(current, self.accelerators.open_checkpoint(result.path), result)
        if share >= LEAST_COVERAGE or self.allow_low_coverage:
            return
        name, reason = next(iter(result.skipped.items()))
        raise AccelerationError(
            f'"{stage.name}" changed only {share:.0%} of the weights that it could, and {LEAST_COVERAGE:.0%} is the least '
            f"({len(result.skipped)} skipped, such as {name}: {reason}); allow a low coverage if that is meant."
        )

    def _damage(self, folder: Path) -> str:
        """What is wrong with the files of a cached checkpoint; empty where they are as they were written."""
        try:
            manifest = read_manifest(folder)
            records = file_records(folder, manifest)
            verify_sizes(folder, records)
            for name, record in records.items():
                verify_digest(folder, name, record, file_digest)
            self.accelerators.open_checkpoint(folder)
        except LLMasOSError as error:
            return str(error).rstrip(".")
        return ""
