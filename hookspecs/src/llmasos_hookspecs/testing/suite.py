"""Conformance tests of suites."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import attrs
import numpy as np
import numpy.typing as npt
import pytest

from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.engine import Engine
from llmasos_hookspecs.errors import CapacityExceeded
from llmasos_hookspecs.reports import Measurement, Report, figure_table
from llmasos_hookspecs.suites import Figure, Section, Suite, SuiteResult
from llmasos_hookspecs.tasks import TaskModel
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint, quantize, tiny_checkpoint
from llmasos_hookspecs.testing.engine import ReferenceEngine
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext, SandboxProgress
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel

_BETTER: Final = ("lower", "higher", None)


class WatchedEngine:
    """An engine that counts open slots, and refuses steps of more than ``capacity`` tokens, as real ones do when memory is short."""

    def __init__(self, engine: Engine, capacity: int | None = None) -> None:
        self.info = engine.info
        self.slots: set[int] = set()
        self.shut = False
        self.steps = 0
        self._engine, self._capacity = engine, capacity

    def open(self) -> int:
        slot = self._engine.open()
        self.slots.add(slot)
        return slot

    def step(self, rows: Any) -> list[npt.NDArray[np.float32]]:
        if self._capacity is not None and sum(len(row.tokens) for row in rows) > self._capacity:
            raise CapacityExceeded(f"A step of more than {self._capacity} tokens has no room.")
        self.steps += 1
        return list(self._engine.step(rows))

    def truncate(self, slot: int, length: int) -> None:
        self._engine.truncate(slot, length)

    def fork(self, slot: int) -> int:
        made = self._engine.fork(slot)
        self.slots.add(made)
        return made

    def close(self, slot: int) -> None:
        self._engine.close(slot)
        self.slots.discard(slot)

    def shutdown(self) -> None:
        self.shut = True


@attrs.define(eq=False, kw_only=True)
class SandboxModel:
    """A ``MeasuredModel`` over a checkpoint in memory: the reference decoder in numpy, and a scripted ``TaskModel``.

    ``remembered`` holds what ``remember`` kept; give another model the same dict, and it is found there. ``computed`` tells whether an
    engine has made a step, or the ``TaskModel`` was asked for.
    """

    checkpoint: Checkpoint
    base: Checkpoint | None = None
    label: str = "model"
    backend: str = "reference 1.0"
    corpus: str = "random"
    seed: int = 0
    capacity: int | None = None
    scripted: TaskModel = attrs.field(factory=ScriptedTaskModel)
    remembered: dict[str, Any] = attrs.field(factory=dict)
    measured: list[str] = attrs.field(factory=list)
    engines: dict[str, WatchedEngine] = attrs.field(factory=dict, init=False)
    _lent: bool = attrs.field(default=False, init=False)

    @property
    def computed(self) -> bool:
        return self._lent or any(engine.steps for engine in self.engines.values())

    def engine(self) -> Engine:
        return self._made("engine", self.checkpoint)

    def reference(self) -> Engine:
        return self._made("reference", self.checkpoint if self.base is None else self.base)

    def model(self) -> TaskModel:
        self._lent = True
        return self.scripted

    def windows(self, windows: int, length: int) -> npt.NDArray[np.int32]:
        found = min(length, self.checkpoint.decoder.context_length)
        vocabulary = min(256, self.checkpoint.decoder.vocab_size)
        return np.random.default_rng(self.seed).integers(0, vocabulary, (min(windows, 4), found), dtype=np.int32)

    def remember(self, key: str, measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        base = self.checkpoint if self.base is None else self.base
        full = json.dumps((key, self.checkpoint.digest, base.digest, self.corpus, self.backend))
        if full not in self.remembered:
            self.measured.append(key)
            self.remembered[full] = json.dumps(measure(), allow_nan=False)
        found: Mapping[str, Any] = json.loads(self.remembered[full])
        return found

    @contextmanager
    def progress(self, label: str, total: float | None = None, unit: str = "") -> Iterator[SandboxProgress]:
        yield SandboxProgress()

    def _made(self, name: str, checkpoint: Checkpoint) -> Engine:
        if name not in self.engines:
            self.engines[name] = WatchedEngine(ReferenceEngine(checkpoint), self.capacity)
        return self.engines[name]


class SuiteConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, and pytest proves its suite::

        class TestConformance(SuiteConformance):
            module = "llmasos_suite_mine"

    Give ``options`` that make it quick: the models are tiny, and computed in numpy.

    Attributes:
        blind: the figures say nothing of the weights, although the suite computes with them, so that different models may have equal ones.
        reply: what the ``TaskModel`` answers; None: random text.
    """

    kind = "suite"
    blind: ClassVar[bool] = False
    reply: ClassVar[str | None] = None

    @pytest.fixture
    def suite(self, sandbox: PluginSandbox, context: SandboxContext) -> Suite:
        return self.make(sandbox, context)

    def make(self, sandbox: PluginSandbox, context: SandboxContext) -> Suite:
        """Call ``llmasos_create_suite`` as core does."""
        found: Suite = sandbox.call("llmasos_create_suite", options=self.plugin_options(sandbox), context=context)
        return found

    def make_model(self, checkpoint: Checkpoint | None = None, **more: Any) -> SandboxModel:
        """A model to measure."""
        reply = self.reply
        scripted = ScriptedTaskModel(None if reply is None else lambda _text, _sampling: reply, seed=more.get("seed", 0))
        return SandboxModel(checkpoint=checkpoint or tiny_checkpoint("llama", seed=1), scripted=scripted, **more)

    def measure(self, suite: Suite, model: SandboxModel) -> SuiteResult:
        """Measure, and check what comes out."""
        found = suite.measure(model)
        assert isinstance(found, SuiteResult), f"measure returned {type(found).__name__}, and it must be a SuiteResult."
        return found

    def test_suite_is_whole(self, suite: Suite) -> None:
        """The suite has ``measure``; ``sections``, ``notes`` and ``page`` can be called where they are there."""
        assert isinstance(suite, Suite), "The suite lacks measure."
        for name in ("sections", "notes", "page"):
            assert callable(getattr(suite, name, len)), f"{name} is no method."

    def test_figures_are_sound(self, suite: Suite) -> None:
        """At least one figure; names are unique keys, values finite, errors not negative, and it is said what is better."""
        figures = self.measure(suite, self.make_model()).figures
        assert figures, "The suite measured nothing."
        names = [figure.name for figure in figures]
        assert len(set(names)) == len(names), f"Two figures have one name: {names}."
        for figure in figures:
            assert figure.name.replace("_", "").isalnum(), f"{figure.name!r} is no key; use letters, digits and underscores."
            assert figure.name == figure.name.lower(), f"{figure.name!r} has capitals; use lower-case letters."
            assert figure.better in _BETTER, f"{figure.name}.better is {figure.better!r}, and it must be lower, higher or None."
            assert isinstance(figure.value, int | float), f"{figure.name} is {type(figure.value).__name__}; make it a float."
            assert not isinstance(figure.value, bool | np.generic), f"{figure.name} is {type(figure.value).__name__}; make it a float."
            assert math.isfinite(figure.value), f"{figure.name} is {figure.value} for a sound model."
            assert figure.error is None or 0 <= figure.error < math.inf, f"The standard error of {figure.name} is {figure.error}."
            assert figure.digits >= 0
            assert str(figure)
            assert figure.heading.strip()

    def test_facts_are_plain_data(self, suite: Suite) -> None:
        """Facts can be written as JSON, and notes are sentences."""
        found = self.measure(suite, self.make_model())
        json.dumps(dict(found.facts), allow_nan=False)
        for note in found.notes:
            assert isinstance(note, str), f"The note {note!r} is no text."
            assert note.strip().endswith((".", "!", "?")), f"The note {note!r} is no sentence."

    def test_every_model_has_the_same_figures(self, suite: Suite) -> None:
        """The names, units and directions of the figures do not depend on the model, so that tables line up."""
        base = tiny_checkpoint("llama", seed=1)
        models = [self.make_model(base), self.make_model(tiny_checkpoint("qwen3", seed=2), label="other")]
        models.append(self.make_model(rounded(base), base=base, label="stage"))
        found = [[(f.name, f.title, f.unit, f.better) for f in self.measure(suite, model).figures] for model in models]
        assert found[0] == found[1] == found[2], f"The figures differ between models: {found}."

    def test_the_same_model_measures_the_same(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """Figures that are said to be repeatable are equal for a second suite on the same model."""
        first, second = (self.measure(self.make(sandbox, context), self.make_model()) for _ in range(2))
        for one, other in zip(first.figures, second.figures, strict=True):
            if one.repeatable:
                assert (one.value, one.error) == (other.value, other.error), (
                    f"{one.name} is {one.value} and then {other.value} for the same model; say repeatable=False if it is a time."
                )

    def test_tells_models_apart(self, suite: Suite) -> None:
        """Some repeatable figure of a model with other weights, and of one with a coarse grid of 2 bits, differs."""
        if self.blind:
            pytest.skip("The figures say nothing of the weights.")
        base = tiny_checkpoint("llama", seed=1)
        idle = self.make_model(base)
        self.measure(suite, idle)
        if not idle.computed:
            pytest.skip("The suite computes nothing with a model, so its figures say nothing of the weights.")
        found = []
        for checkpoint, seed in ((base, 0), (tiny_checkpoint("llama", seed=2), 1), (rounded(base), 2)):
            result = self.measure(suite, self.make_model(checkpoint, base=base, seed=0) if seed != 1 else self.make_model(checkpoint))
            found.append([figure.value for figure in result.figures if figure.repeatable] or [float(seed)])
        assert found[0] != found[1], "A model with other weights has the same figures."
        assert found[0] != found[2], "A model that was rounded to 2 bits has the same figures as its base."

    def test_leaves_the_engine_as_it_was(self, suite: Suite) -> None:
        """Every slot that was opened is closed, and no engine is shut down: other suites go on with it."""
        model = self.make_model()
        self.measure(suite, model)
        for name, engine in model.engines.items():
            assert not engine.slots, f"{len(engine.slots)} slots of the {name} are still open."
            assert not engine.shut, f"The suite shut the {name} down, which is shared."

    def test_makes_do_with_small_steps(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """An engine that refuses large steps with ``CapacityExceeded`` gets smaller ones, and the figures are the same."""
        plain = self.make_model()
        expected = self.measure(self.make(sandbox, context), plain)
        if not plain.engines:
            pytest.skip("The suite uses no engine.")
        found = self.measure(self.make(sandbox, context), self.make_model(capacity=5))
        for one, other in zip(expected.figures, found.figures, strict=True):
            assert not one.repeatable or math.isclose(one.value, other.value, rel_tol=1e-3, abs_tol=1e-4), (
                f"{one.name} is {one.value}, and {other.value} where steps are small."
            )

    def test_what_is_remembered_is_not_measured_again(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """Values from an earlier run give the same figures; a suite that remembers nothing passes."""
        first = self.make_model()
        expected = self.measure(self.make(sandbox, context), first)
        second = self.make_model(remembered=first.remembered)
        found = self.measure(self.make(sandbox, context), second)
        assert not second.measured
        repeatable = [figure.name for figure in expected.figures if figure.repeatable]
        assert [found.figure(name) for name in repeatable] == [expected.figure(name) for name in repeatable]

    def test_sections_can_be_drawn(self, suite: Suite) -> None:
        """Sections about several models are plain tables and charts; rows are as wide as their heads."""
        ask = getattr(suite, "sections", None)
        if ask is None:
            pytest.skip("The suite has no sections.")
        base = tiny_checkpoint("llama", seed=1)
        results = {
            "base": self.measure(suite, self.make_model(base)),
            "stage": self.measure(suite, self.make_model(rounded(base), base=base)),
        }
        for given in (results, {"base": results["base"]}):
            for section in ask(given):
                assert isinstance(section, Section), f"sections gave {type(section).__name__}, and it must be a Section."
                assert section.title.strip()
                assert all(len(row) == len(section.columns) for row in section.rows), f"{section.title}: a row is not as wide as its head."
                assert all(isinstance(cell, str) for row in (section.columns, *section.rows) for cell in row)
                assert all(math.isfinite(value) and error >= 0 for value, error in section.bars.values())

    def test_notes_and_page_are_text(self, suite: Suite) -> None:
        """What it notes of a base and a stage are sentences, and its page of a report of other suites too is HTML; it may have neither."""
        base = tiny_checkpoint("llama", seed=1)
        stage = self.make_model(rounded(base), base=base)
        results = {"base": self.measure(suite, self.make_model(base)), "1 stage": self.measure(suite, stage)}
        for given in (results, {"base": results["base"]}):
            for note in getattr(suite, "notes", lambda _: ())(given):
                assert isinstance(note, str), f"The note {note!r} is no text."
                assert note.strip().endswith((".", "!", "?")), f"The note {note!r} is no sentence."
        other = SuiteResult(figures=(Figure(name="other", value=1.0),))
        models = {
            label: Measurement(results={"mine": result, "other": other}, backend="reference 1.0") for label, result in results.items()
        }
        columns, rows = figure_table({label: found.results for label, found in models.items()})
        section = Section(title="More", columns=("a",), rows=(("b",),), bars={"c": (1.0, 0.1)}, lines={"d": [(0, 1), (1, 2)]}, details="e")
        report = Report(title="Report", text="Text.", columns=columns, rows=rows, models=models, sections=(section,), notes=("Note.",))
        for each in (report, attrs.evolve(report, models={}, sections=(), notes=())):
            page = getattr(suite, "page", lambda _: "<html>")(each)
            assert isinstance(page, str), f"page gave {type(page).__name__}, and it must be a text."
            assert "<" in page, "The page is no HTML."


def rounded(checkpoint: TinyCheckpoint) -> TinyCheckpoint:
    """The checkpoint with every linear weight rounded to a grid of 2 bits, as floats."""
    tensors = dict(checkpoint.tensors)
    for name in checkpoint.names():
        tensor = tensors[name]
        if isinstance(tensor, np.ndarray) and tensor.ndim == 2 and name.startswith("model.layers."):
            tensors[name] = quantize(tensor, 2, form="minimums").dequantize().astype(np.float32)
    return attrs.evolve(checkpoint, tensors=tensors)
