"""A tiny model with a tokenizer, accelerators written for the tests, and an engine without a framework to measure on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos.acceleration import AccelerationReport, run_acceleration
from llmasos.acceleration.backend import Backend
from llmasos.acceleration.corpus import Corpus
from llmasos.acceleration.run import Accelerators
from llmasos.acceleration.suites import NamedSuite
from llmasos.compose.formats import open_model
from llmasos.system.components import LoadedComponent, PluginSet
from llmasos.system.context import HookContext
from llmasos.system.discovery import InstalledComponent
from llmasos_config import ComponentConfig
from llmasos_hookspecs import (
    AccelerationError,
    Checkpoint,
    Component,
    Figure,
    PluginError,
    QuantizedTensor,
    Report,
    Row,
    Section,
    StagePlan,
    SuiteResult,
    hookimpl,
)
from llmasos_hookspecs.testing import ReferenceEngine, quantize, tiny_checkpoint
from llmasos_model_store.store import Store

#: A part of the default corpus: to cut all of it into tokens takes longer than most runs.
CORPUS = Corpus.from_text("\n\n".join(topics[name] for name in sorted(topics)[:12]), name="some topics")


@attrs.frozen(kw_only=True)
class Options:
    """Options of every accelerator below."""

    amount: float = 0.01
    windows: int = 2


Work = Callable[[str, Any, Options, Any], Any]


def accelerator(
    name: str, work: Work, *, version: str = "1.0", log: list[str] | None = None, said: Any = None, **component: Any
) -> LoadedComponent:
    """An accelerator that writes ``work(name, tensor, options, context)`` for each tensor; a text in its place keeps and skips it.

    ``said``: fields of its result.
    """
    module = ModuleType(f"test_accel_{name}")

    @hookimpl
    def llmasos_component() -> Component:
        return Component(summary="For tests.", options=Options, **component)

    @hookimpl
    def llmasos_accelerate(checkpoint: Checkpoint, output: Path, options: Options, context: Any) -> Any:
        if log is not None:
            log.append(name)
        with context.writer(checkpoint, output) as writer:
            for each in checkpoint.names():
                tensor = checkpoint.tensor(each)
                changed = work(each, tensor, options, context)
                if isinstance(changed, str):
                    writer.skip(each, changed)
                    changed = tensor
                writer.add(each, changed)
        return attrs.evolve(writer.result(amount=options.amount, notes=[f"{name} was here."]), **(said or {}))

    module.llmasos_component = llmasos_component
    module.llmasos_accelerate = llmasos_accelerate
    entry = InstalledComponent("accelerator", name, module.__name__, f"accel-{name}", version)
    return LoadedComponent(entry, module, llmasos_component())


def noisy(name: str, tensor: Any, options: Options, context: Any) -> Any:
    """Adds noise drawn from the seed to the linears."""
    if not name.endswith("_proj.weight"):
        return tensor
    rng = np.random.default_rng((context.seed, len(name)))
    return (tensor + options.amount * rng.standard_normal(tensor.shape)).astype(np.float32)


def rounded(name: str, tensor: Any, options: Options, context: Any) -> Any:
    """Quantises the linears to 8 bits."""
    return quantize(np.asarray(tensor), 8) if name.endswith("_proj.weight") else tensor


def calibrated(name: str, tensor: Any, options: Options, context: Any) -> Any:
    """Adds something that depends on the calibration text."""
    if name != "model.norm.weight":
        return tensor
    return tensor + np.float32(context.calibration(options.windows, 16).mean() / 1e4)


def plan(left: str) -> Callable[..., StagePlan]:
    def found(decoder: Any, options: Options, state: Any) -> StagePlan:
        problems = ("The weights are quantised already.",) if state["quantized"] else ()
        return StagePlan(problems=problems, leaves={left: True})

    return found


@attrs.define
class Peak:
    """The mean of the greatest logits, through the engine; ``remembered`` counts how often it was really measured."""

    measured: int = 0
    length: int = 16
    reference: bool = False
    asks: Callable[[Any], Any] = attrs.field(default=lambda _model: None)
    change: Callable[[SuiteResult], Any] = attrs.field(default=lambda result: result)

    def measure(self, model: Any) -> Any:
        self.asks(model)
        known = model.remember("peak", lambda: self._peaks(model))
        figure = Figure(name="peak", title="Peak <logit>", value=known["mean"], error=0.5, unit="logits", better="higher", digits=3)
        return self.change(SuiteResult(figures=(figure,), facts={"label": model.label}, notes=("It is a peak.",)))

    def sections(self, results: Any) -> list[Section]:
        rows = tuple((label, str(result.figure("peak"))) for label, result in results.items())
        bars = {label: (result.figure("peak").value, 0.1) for label, result in results.items()}
        return [Section(title="Peaks & more", columns=("model", "peak"), rows=rows, bars=bars, lines={"line": [(0, 1), (1, 2)]})]

    def notes(self, results: Any) -> list[str]:
        return [f"The peaks are those of {', '.join(results)}."]

    def page(self, report: Report) -> str:
        return f"<h1>{report.title}</h1>{report.columns}{report.rows}{report.sections}{report.notes}{list(report.models)}"

    def _peaks(self, model: Any) -> dict[str, float]:
        self.measured += 1
        engine = model.reference() if self.reference else model.engine()
        window = model.windows(1, self.length)[0].tolist()
        slot = engine.open()
        logits = engine.step([Row(slot, window, 0, "all")])[0]
        engine.close(slot)
        return {"mean": float(np.mean(logits.max(-1)))}


def named(suite: Any, name: str = "peak") -> NamedSuite:
    return NamedSuite(name=name, label=f'suite "{name}" (suite-{name} 1.0)', suite=suite)


@attrs.define
class Bench:
    """Runs accelerations of the tiny model; ``log`` tells which stages were really made."""

    folder: Path
    log: list[str] = attrs.field(factory=list)
    accelerators: dict[str, LoadedComponent] = attrs.field(factory=dict)
    loads: int = 0

    def add(self, name: str, work: Work, **more: Any) -> None:
        self.accelerators[name] = accelerator(name, work, log=self.log, **more)

    @property
    def model(self) -> Checkpoint:
        return open_model(self.folder / "model")

    @property
    def backend(self) -> Backend:
        def load(checkpoint: Checkpoint) -> ReferenceEngine:
            self.loads += 1
            return ReferenceEngine(checkpoint)

        return Backend(label="reference 1.0", load=load, load_reference=load)

    def find(self, use: str) -> LoadedComponent:
        if use not in self.accelerators:
            raise PluginError(f'The accelerator "{use}" is not installed.')
        return self.accelerators[use]

    def run(self, stages: Sequence[Any], *, measure: bool = False, **more: Any) -> AccelerationReport:
        plugins = PluginSet(self.accelerators.values())

        def context(loaded: LoadedComponent, **fields: Any) -> HookContext:
            return HookContext(
                name=loaded.entry.name, cache=self.folder / "own" / loaded.entry.name, store=Store(self.folder / "store"), **fields
            )

        return run_acceleration(
            more.pop("model", None) or self.model,
            configs(stages),
            Accelerators(find=self.find, call=plugins.call, context=context, open_checkpoint=open_model),
            cache=self.folder / "cache",
            corpus=more.pop("corpus", CORPUS),
            backend=self.backend if measure else None,
            suites=more.pop("suites", [named(Peak())] if measure else ()),
            **more,
        )

    def problems(self, stages: Sequence[Any], **more: Any) -> tuple[str, ...]:
        with pytest.raises(AccelerationError) as caught:
            self.run(stages, **more)
        assert not self.log, "A stage ran although the plan had problems."
        assert all(problem in str(caught.value) for problem in caught.value.problems)
        return caught.value.problems


def configs(stages: Sequence[Any]) -> list[ComponentConfig]:
    """``"noise"`` or ``("noise", {"amount": 1})`` as config has them."""
    pairs = [(stage, {}) if isinstance(stage, str) else stage for stage in stages]
    return [ComponentConfig(use, options, f"accelerate[{index}]") for index, (use, options) in enumerate(pairs)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench with the accelerators ``noise`` (structure), ``text`` (anywhere, calibrated) and ``int8`` (quant)."""
    tiny_checkpoint("llama", folder=tmp_path / "model")
    found = Bench(tmp_path)
    found.add("noise", noisy, stage="structure")
    found.add("text", calibrated, calibration=True)
    found.add("int8", rounded, stage="quant", plan=plan("quantized"))
    return found


def is_quantized(checkpoint: Checkpoint) -> bool:
    return any(isinstance(checkpoint.tensor(name), QuantizedTensor) for name in checkpoint.names())
