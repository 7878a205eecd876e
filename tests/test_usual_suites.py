"""The suites that measure where the user names none: what they give, what config may say of them, and what is told without them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import llmasos
from llmasos.system import discovery
from llmasos.system.context import SilentSink
from llmasos_hookspecs import PluginError
from llmasos_hookspecs.testing import tiny_checkpoint

STAGES = [{"use": "prune", "layers": [1]}, {"use": "quant", "bits": 8}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder)
    return folder


class Notes(SilentSink):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def test_an_acceleration_reports_size_quality_and_speed_of_every_stage(tiny: Path, tmp_path: Path) -> None:
    """In Python, in JSON, in the manifest and on the page."""
    report = llmasos.accelerate(tiny, STAGES, output=tmp_path / "out", loader="onnx", windows=2, length=48)
    assert report.base is not None
    assert report.base.quality.mean_kl < 1e-3
    values = [stage.measurement for stage in report.stages]
    assert all(found is not None and found.quality.tokens == 2 * 48 and found.speed.decode > 0 for found in values)
    assert values[1].size.matrices < 0.6 * values[0].size.matrices
    assert (report.windows, report.length) == (2, 48)
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert facts["base"]["quality"]["perplexity"] == report.base.quality.perplexity
    assert facts["stages"][1]["measurement"]["size"]["disk"] == values[1].size.disk
    manifest = json.loads((tmp_path / "out" / "llmasos.json").read_text())
    assert manifest["stages"][0]["measured"]["quality"]["mean_kl"] == values[0].quality.mean_kl
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 5
    assert not any(word in page for word in ("http", "src=", "url(", "<script", "<link"))
    for drawing in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + drawing.partition("</svg>")[0] + "</svg>")


def test_config_gives_a_usual_suite_its_options(tiny: Path) -> None:
    """``[[suites]]`` with the name of one of them; an argument has the last word, and each suite measures once."""
    suites = [{"use": "quality", "windows": 2, "length": 24}, {"use": "llmasos-suite-quality:speed", "repeats": 1, "new_tokens": 3}]
    config = {"model": {"source": str(tiny)}, "loader": "onnx", "suites": suites}
    with llmasos.Pipeline.from_config(config) as pipeline:
        found = pipeline.measure()
        assert list(found.results) == ["size", "speed", "quality"]
        assert (found.quality.tokens, found.quality.window) == (48, 24)
        assert (found.speed.repeats, found.speed.new_tokens, found.speed.prompt_tokens) == (1, 3, 128)
        again = pipeline.measure(windows=1, speed=False)
        assert list(again.results) == ["size", "quality"]
        assert (again.quality.tokens, again.quality.window) == (24, 24)


@contextmanager
def without_suites() -> Iterator[None]:
    """As if no distribution brought any."""
    entries = discovery.Registry.entries
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            discovery.Registry, "entries", lambda self, kind=None: tuple(each for each in entries(self, kind) if each.kind != "suite")
        )
        yield


@pytest.mark.parametrize("call", ["accelerate", "evaluate"])
def test_without_them_measuring_names_the_package(tiny: Path, tmp_path: Path, call: str) -> None:
    """Before the model is looked for."""
    arguments: dict[str, Any] = {"accelerate": ("none-such-model", STAGES), "evaluate": ("none-such-model",)}
    with without_suites(), pytest.raises(PluginError, match='The suite "size" is not installed; pip install llmasos-suite-quality'):
        getattr(llmasos, call)(*arguments[call], offline=True)


def test_without_them_stages_run_unmeasured_and_the_report_has_no_page(tiny: Path, tmp_path: Path) -> None:
    """A note says what is missing."""
    sink = Notes()
    with without_suites():
        report = llmasos.accelerate(tiny, STAGES[:1], output=tmp_path / "out", measure=False, progress=sink)
    assert report.base is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name.startswith("report")) == ["report.json"]
    assert any(note.startswith("The report has no page: The suite") and "llmasos-suite-quality" in note for note in sink.said)


def test_an_unmeasured_report_has_a_page_too(tiny: Path, tmp_path: Path) -> None:
    """With what each stage says of itself."""
    llmasos.accelerate(tiny, STAGES[:1], output=tmp_path / "out", measure=False)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Nothing was measured." in page
    assert "1 prune" in page
