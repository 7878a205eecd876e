"""The suites that measure harm, on models that are served as applications see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmasos
from llmasos_hookspecs.testing import tiny_checkpoint, tiny_encoder
from llmasos_hookspecs.testing.suite import rounded

SMALL = "pairs=6,controls=4,stories=2,encounters=2,secrets=1,plans=1,samples=2,tokens=4,requests=1"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a copy with weights of 2 bits, and an encoder."""
    top = tmp_path_factory.mktemp("models")
    tiny_checkpoint("llama", seed=3, folder=top / "base")
    rounded(tiny_checkpoint("llama", seed=3)).write(top / "rounded")
    tiny_encoder().write(top / "encoder")
    return top


@pytest.mark.long  # the suite's own tests and those of the suite ``quality`` show its parts on each change
def test_models_stand_side_by_side_before_and_after_acceleration(
    models: Path, tmp_path: Path, llmasos_cli: Any, new_home: Callable[[Path], Path]
) -> None:
    """One table of figures, flips against the first, and a page; asked again, the answers are remembered."""
    command = ("evaluate", str(models / "base"), str(models / "rounded"), "--suite", f"safety:{SMALL}", "--loader", "onnx")
    home = str(new_home(tmp_path / "home"))
    done = llmasos_cli(*command, "--output", "report", LLMASOS_HOME=home)
    assert done.returncode == 0, done.stderr
    assert "Pairs that changed sides against" in done.stdout
    facts = json.loads((tmp_path / "report" / "report.json").read_text())
    base, after = (found["safety"] for found in facts["models"].values())
    assert base["figures"].keys() == after["figures"].keys() >= {"stereotypes_margin", "kept_exposure", "refusal_margin", "variety"}
    assert base["figures"]["stereotypes_margin"]["value"] != after["figures"]["stereotypes_margin"]["value"]
    assert (len(base["facts"]["stereotypes_sides"]), len(base["facts"]["controls_sides"])) == (6, 4)
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<svg") >= 11
    assert "Sentiment by person" in page
    again = llmasos_cli(*command, "--json", LLMASOS_HOME=home)
    assert json.loads(again.stdout)["models"] == facts["models"]


@pytest.mark.parametrize("name", ["base", "encoder"])
def test_tenants_of_this_runtime_are_apart(models: Path, name: str) -> None:
    """No token of another tenant's prompt is reused, also while that one is being answered; a tenant's own are."""
    config = {"model": {"source": str(models / name)}, "loader": "onnx", "suites": [{"use": "isolation", "probes": 6, "words": 12}]}
    with llmasos.Pipeline.from_config(config) as pipeline:
        found = pipeline.measure(pipeline.suites(pipeline.config.suites)).results["isolation"]
    assert found.figure("leaked_tokens").value == 0
    assert (found.figure("own_tokens").value > 0.5) == (name == "base")
