"""``llmasos doctor MODEL``: a user's own proof that a model is computed right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmasos
from llmasos_devtools.doctor import self_check
from llmasos_hookspecs import UnsupportedModel
from llmasos_hookspecs.testing import SandboxCommandContext, ScriptedCommandModel, run_command, tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint("mistral", folder=made)
    return made


def check(folder: Path, loader: Any) -> self_check.SelfCheck:
    with llmasos.load_model(folder, loader=loader, threads=1) as model:
        return self_check.check_model(model, model.checkpoint)


def without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "find_spec", lambda _: None)


@pytest.mark.parametrize("reference", ["transformers", "numpy"])
def test_an_engine_that_is_right_is_equal(folder: Path, monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    """Short, long, past the sliding window, and token by token; against either reference."""
    if reference == "numpy":
        without_transformers(monkeypatch)
    found = check(folder, {"use": "onnx", "precision": "fp32"})
    assert reference in found.reference
    assert [each.verdict for each in found.comparisons] == ["equal"] * 4
    assert [each.tokens for each in found.comparisons] == [8, 17, 192, 16]  # the window has 12 tokens
    assert found.passed


def test_an_engine_that_rounds_is_told_from_one_that_is_wrong(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that the engine overlooks is seen in the texts that are longer than it, and in no other."""
    without_transformers(monkeypatch)
    wide = tmp_path / "wide"
    tiny_checkpoint("mistral", folder=wide, sliding_window=None)
    with llmasos.load_model(wide, loader={"use": "onnx", "precision": "fp32"}, threads=1) as model:
        from llmasos.compose.formats import open_model

        found = self_check.check_model(model, open_model(folder))
    verdicts = {each.what: each.verdict for each in found.comparisons}
    assert verdicts["a prompt of 8 tokens"] == "equal"
    assert verdicts["a prompt of 192 tokens"] == "different"
    assert not found.passed


def test_verdicts_follow_error_and_divergence() -> None:
    """Rounding is no difference, and a difference no rounding."""
    make: Callable[[float, float], self_check.Comparison] = lambda error, kl: self_check.Comparison(  # noqa: E731
        what="a text", tokens=1, error=error, mean_kl=kl, top1=1.0
    )
    assert make(1e-5, 0.0).verdict == "equal"
    assert make(0.03, 0.004).verdict == "equal within rounding"
    assert make(0.5, 0.3).verdict == "different"


def test_an_export_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    """It says so, and what to check instead."""
    from llmasos.compose.formats import open_model

    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(UnsupportedModel, match="check the model that it was exported from"):
        self_check.find_reference(open_model(tmp_path / "model.onnx"))


def test_the_verb_says_equal_or_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, plain data for scripts; exit 0 where all is equal."""
    from llmasos.cli import invoke

    assert invoke(["doctor", str(folder), "--loader", "onnx", "--set", "loader.precision=fp32", "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "a prompt of 192 tokens" in told
    assert re.search(r'^The loader "onnx" \(.*\): The config names it\.$', told, re.M)
    assert invoke(["doctor", str(folder), "--loader", "onnx", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert all(np.isfinite(row["error"]) for row in found["comparisons"])


def test_the_figures_by_which_a_loader_was_chosen_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the loader; what else the load says follows."""
    from llmasos_devtools.doctor.verb import make

    figures = "Timed on this machine: the one 1 s, the other 2 s."
    found = self_check.SelfCheck(loader='loader "one"', loader_choice=figures, dtype="float32", reference="a reference", comparisons=())
    monkeypatch.setattr(self_check, "check_model", lambda *_: found)
    scripted = ScriptedCommandModel(lambda *_: "")
    scripted.notes = (figures, "The third needs a framework.")
    done = run_command(make(SandboxCommandContext(root=tmp_path, scripted=scripted)), "smollm2")
    assert done.output.splitlines()[-2:] == [f'The loader "one": {figures}', "The third needs a framework."]
