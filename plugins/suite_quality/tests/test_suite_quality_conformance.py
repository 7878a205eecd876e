"""LLMasOS's own tests of suites and commands, run on these."""

import json
from pathlib import Path

import pytest

from llmasos_hookspecs.testing import CommandConformance, SandboxCommandContext, SuiteConformance, run_command
from llmasos_suite_quality import quality, size
from llmasos_suite_quality.verb import make


class TestQuality(SuiteConformance):
    module = "llmasos_suite_quality.quality"
    options = {"windows": 2, "length": 24}  # noqa: RUF012 - plain, as an author writes it


class TestSize(SuiteConformance):
    module = "llmasos_suite_quality.size"


class TestSpeed(SuiteConformance):
    module = "llmasos_suite_quality.speed"
    options = {"prompt_tokens": 12, "new_tokens": 2, "repeats": 2}  # noqa: RUF012


class TestEvaluate(CommandConformance):
    module = "llmasos_suite_quality.evaluate"
    examples = (
        ("--no-speed",),
        ("one", "two", "--base", "one", "--loader", "onnx", "--windows", "2", "--length", "24"),
        ("one", "--suite", "vocabulary:windows=2"),
        ("--task", "echo", "one", "examples.jsonl"),
        ("one", "two", "--suite", "vocabulary"),
    )

    @pytest.fixture
    def context(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        self.prepare(tmp_path)
        suites = {"quality": quality.QualitySuite(quality.Options(windows=2, length=24)), "size": size.SizeSuite()}
        return SandboxCommandContext(root=tmp_path, suites=suites)

    def prepare(self, folder: Path) -> None:
        (folder / "examples.jsonl").write_text(json.dumps({"text": "a", "expected": "b"}) + "\n")


@pytest.mark.parametrize(
    ("words", "base"), [(("one", "two"), "one"), (("one",), None), (("one", "two", "--base", "three"), "three"), ((), None)]
)
def test_the_first_of_several_models_is_the_base(tmp_path, words, base) -> None:
    """Unless another is named; a model alone is compared with its own weights."""
    context = SandboxCommandContext(root=tmp_path)
    done = run_command(make(context), *words, "--suite", "vocabulary", "--output", str(tmp_path / "out"))
    assert done.code == 0, done.error
    assert json.loads((tmp_path / "out" / "report.json").read_text())["base"] == base
