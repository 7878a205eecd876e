"""Suites measure the base and every stage; what they return is checked, kept and reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import attrs
import pytest

from llmasos.acceleration.suites import NamedSuite
from llmasos_hookspecs import AccelerationError, PluginError, RequestError, SuiteResult
from llmasos_hookspecs.testing import ScriptedTaskModel

from .conftest import Bench, Peak, named, noisy


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
    assert facts["stages"][1]["measurement"]["peak"] == {"peak": values[2], "peak_error": 0.5, "label": "2 noisy"}
    page = (bench.folder / "out" / "report.html").read_text()
    assert "Peaks & more" in page
    assert all(cell in page for cell in cells)
    assert "['base', '1 noisy', '2 noisy']" in page
    assert report.notes[-2:] == ("It is a peak.", "The peaks are those of base, 1 noisy, 2 noisy.")


def test_a_report_without_a_suite_that_draws_has_no_page(bench: Bench) -> None:
    """It has its JSON all the same; a suite that draws does so where nothing is measured, too."""
    bench.run(["noise"], output=bench.folder / "one")
    assert (bench.folder / "one" / "report.json").is_file()
    assert not (bench.folder / "one" / "report.html").exists()
    bench.run(["noise"], suites=[named(Peak())], output=bench.folder / "two")
    assert "noise was here." in (bench.folder / "two" / "report.html").read_text()


def test_nothing_is_asked_where_nothing_is_measured(bench: Bench) -> None:
    """Without a backend there is no engine to measure on."""
    bench.add("noisy", noisy)
    suite = Peak()
    report = bench.run(["noisy"], suites=[named(suite)])
    assert report.base is None
    assert "base_suites" not in report.to_dict()
    assert report.columns() == ("stage", "coverage", "took")
    assert suite.measured == 0


def test_what_is_remembered_is_kept_between_runs(bench: Bench) -> None:
    """The same suite does not measure the same model again; another version of it does."""
    bench.add("noisy", noisy)
    for label, times in (("suite 1.0", 2), ("suite 1.0", 0), ("suite 1.1", 2)):
        suite = Peak()
        bench.run(["noisy"], measure=True, suites=[NamedSuite(name="peak", label=label, suite=suite)])
        assert suite.measured == times


def test_a_checkpoint_is_loaded_once_for_all_that_measures_it(bench: Bench) -> None:
    """Base and stage, each with the reference: the suites share the engines."""
    bench.add("noisy", noisy)
    bench.run(["noisy"], measure=True, suites=[named(Peak()), named(Peak(reference=True), "other")])
    assert bench.loads == 4


def test_the_reference_is_the_base_in_float32(bench: Bench) -> None:
    """Whatever the stage did, the reference's figure is the base's."""
    bench.add("noisy", noisy)
    report = bench.run([("noisy", {"amount": 0.5})], measure=True, suites=[named(Peak(reference=True))])
    stage = report.stages[0].measurement.peak.peak
    assert stage == pytest.approx(report.base.peak.peak, rel=1e-6)


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
    with pytest.raises(AccelerationError, match=r'Measuring "base" failed: it predicts NaN'):
        bench.run(["noisy"], measure=True, suites=[named(Peak(asks=fail(AccelerationError("it predicts NaN."))))])
    with pytest.raises(RequestError, match="not this model"):
        bench.run(["noisy"], measure=True, suites=[named(Peak(asks=fail(RequestError("not this model."))))])
