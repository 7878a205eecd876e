"""Suites measure the base and every stage; what they return is checked, kept and reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos.acceleration.export import export_suites
from llmasos.acceleration.report import SuiteReport
from llmasos.evaluation import NamedSuite
from llmasos_hookspecs import Figure, PluginError, RequestError, Row, Section, SuiteResult
from llmasos_hookspecs.testing import ScriptedTaskModel

from .conftest import Bench, noisy


@attrs.define
class Peak:
    """The mean of the greatest logits, through the engine; ``remembered`` counts how often it was really measured."""

    measured: int = 0
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

    def _peaks(self, model: Any) -> dict[str, float]:
        self.measured += 1
        engine = model.reference() if self.reference else model.engine()
        window = model.windows(1, 16)[0].tolist()
        slot = engine.open()
        logits = engine.step([Row(slot, window, 0, "all")])[0]
        engine.close(slot)
        return {"mean": float(np.mean(logits.max(-1)))}


def named(suite: Any, name: str = "peak") -> NamedSuite:
    return NamedSuite(name=name, label=f'suite "{name}" (suite-{name} 1.0)', suite=suite)


def test_base_and_stages_are_measured(bench: Bench) -> None:
    """Each has its own figures in the table, in JSON and on the page, and the suite speaks of them together."""
    bench.add("noisy", noisy)
    report = bench.run([("noisy", {"amount": 0.5}), ("noisy", {"amount": 0.6})], measure=True, suites=[named(Peak())],
                       output=bench.folder / "out")  # fmt: skip
    column = report.columns().index("Peak <logit> (logits)")
    cells = [row[column] for row in report.rows()]
    assert len(set(cells)) == 3
    assert all(cell.endswith("± 0.500") for cell in cells)
    facts = json.loads((bench.folder / "out" / "report.json").read_text())
    values = [facts["base_suites"]["peak"]["figures"]["peak"]["value"]]
    values += [stage["suites"]["peak"]["figures"]["peak"]["value"] for stage in facts["stages"]]
    assert [f"{value:.3f} ± 0.500" for value in values] == cells
    assert facts["stages"][1]["suites"]["peak"]["facts"] == {"label": "2 noisy"}
    page = (bench.folder / "out" / "report.html").read_text()
    assert "Peaks &amp; more" in page
    assert "Peak &lt;logit&gt; (logits)" in page
    assert "Peak <logit>" not in page
    assert all(cell in page for cell in cells)


def test_without_suites_the_report_is_as_before(bench: Bench) -> None:
    """No column, no key."""
    bench.add("noisy", noisy)
    report = bench.run(["noisy"], measure=True)
    assert not any("peak" in column for column in report.columns())
    assert "base_suites" not in report.to_dict()
    assert "suites" not in report.to_dict()["stages"][0]


def test_nothing_is_asked_where_nothing_is_measured(bench: Bench) -> None:
    """Without a backend there is no engine to measure on."""
    bench.add("noisy", noisy)
    suite = Peak()
    assert bench.run(["noisy"], suites=[named(suite)]).base_suites == {}
    assert suite.measured == 0


def test_what_is_remembered_is_kept_between_runs(bench: Bench) -> None:
    """The same suite does not measure the same model again; another version of it does."""
    bench.add("noisy", noisy)
    for label, times in (("suite 1.0", 2), ("suite 1.0", 0), ("suite 1.1", 2)):
        suite = Peak()
        bench.run(["noisy"], measure=True, suites=[NamedSuite(name="peak", label=label, suite=suite)])
        assert suite.measured == times


def test_a_checkpoint_is_loaded_once_for_all_that_measures_it(bench: Bench) -> None:
    """Base and stage, each with the reference: the built-in figures and the suites share the engines."""
    bench.add("noisy", noisy)
    bench.run(["noisy"], measure=True, suites=[named(Peak()), named(Peak(reference=True), "other")])
    assert bench.loads == 4


def test_the_reference_is_the_base_in_float32(bench: Bench) -> None:
    """Whatever the stage did, the reference's figure is the base's."""
    bench.add("noisy", noisy)
    report = bench.run([("noisy", {"amount": 0.5})], measure=True, suites=[named(Peak(reference=True))])
    stage = report.stages[0].suites["peak"].figure("peak").value
    assert stage == pytest.approx(report.base_suites["peak"].figure("peak").value, rel=1e-6)


def test_the_model_behind_the_scheduler_is_lent(bench: Bench) -> None:
    """Opened once a checkpoint, shared by suites, and closed at the end."""
    bench.add("noisy", noisy)
    opened: list[str] = []

    @contextmanager
    def open_model(checkpoint: Any) -> Any:
        opened.append(f"open {checkpoint.path.name}")
        yield ScriptedTaskModel()
        opened.append("close")

    suites = [named(Peak(asks=lambda model: model.model().generate("a")), name) for name in ("one", "two")]
    report = bench.run(["noisy"], measure=True, suites=suites, open_model=open_model)
    assert [each.partition(" ")[0] for each in opened] == ["open", "close", "open", "close"]
    assert [column for column in report.columns() if "Peak" in column] == ["one: Peak <logit> (logits)", "two: Peak <logit> (logits)"]


FAULTS: dict[str, tuple[Callable[[SuiteResult], Any], str]] = {
    "no result": (lambda _: {"peak": 1.0}, "a dict and no SuiteResult from Suite.measure"),
    "a number for a figure": (lambda result: attrs.evolve(result, figures=(1.0,)), "a float among its figures"),
    "a name twice": (lambda result: attrs.evolve(result, figures=result.figures * 2), "two figures called 'peak'"),
    "a text for a value": (
        lambda result: attrs.evolve(result, figures=(attrs.evolve(result.figures[0], value="1"),)), "whose value is a str, and it must be"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_result_names_the_suite(bench: Bench, fault: str) -> None:
    """Before core uses it."""
    change, sentence = FAULTS[fault]
    bench.add("noisy", noisy)
    with pytest.raises(PluginError, match=sentence) as caught:
        bench.run(["noisy"], measure=True, suites=[named(Peak(change=change))])
    assert 'suite "peak" (suite-peak 1.0)' in str(caught.value)


def test_an_exception_names_the_suite_and_frees_the_engine(bench: Bench) -> None:
    """Its own error passes; any other is the plugin's fault."""
    bench.add("noisy", noisy)

    def fail(error: Exception) -> Callable[[Any], None]:
        def asks(model: Any) -> None:
            model.engine()
            raise error

        return asks

    with pytest.raises(PluginError, match=r'suite "peak" \(suite-peak 1.0\) failed in Suite.measure: KeyError'):
        bench.run(["noisy"], measure=True, suites=[named(Peak(asks=fail(KeyError("x"))))])
    with pytest.raises(RequestError, match="not this model"):
        bench.run(["noisy"], measure=True, suites=[named(Peak(asks=fail(RequestError("not this model."))))])


def test_a_report_of_models_is_written(tmp_path: Path) -> None:
    """``evaluate --suite``: rows for models, columns for figures; a figure that a model lacks is empty, and NaN is null."""

    def result(**values: float) -> SuiteResult:
        return SuiteResult(figures=tuple(Figure(name=name, value=value) for name, value in values.items()), notes=("N.",))

    models = {"a": {"s": result(x=1.0)}, "b": {"s": result(x=float("nan"), y=2.0)}}
    report = SuiteReport(models=models, sections={}, backends={"a": "one", "b": "two"}, base=None, corpus="text")
    assert report.columns() == ("model", "x", "y")
    assert report.rows() == [("a", "1.00", ""), ("b", "nan", "2.00")]
    assert report.notes == ("N.",)
    export_suites(tmp_path / "out", report)
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert facts["models"]["b"]["s"]["figures"]["x"]["value"] is None
    assert "<td>2.00</td>" in (tmp_path / "out" / "report.html").read_text()
