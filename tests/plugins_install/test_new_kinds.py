"""An external format, command and suite: installed as wheels, listed, used, and gone after removal."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.wheels


def names(environment, kind):
    return {component["name"] for component in environment.listed()["components"] if component["kind"] == kind}


def test_an_external_format_comes_writes_reads_and_goes(environment, wheels, checkpoint, counting_lifo):
    """A model is written in it and run from it; without it both are refused in one sentence."""
    folder = environment.home / "model-npz"
    export = ("models", "export", str(checkpoint), "--npz", "float16", "--output", str(folder), "--json")
    run = ("run", "abc", "--model", str(folder), "--loader", "counting", "--scheduler", "lifo", "--max-new-tokens", "4")
    refused = environment.llmasos(*export)
    assert (refused.returncode, "No such option: --npz" in refused.stderr) == (2, True), refused.stderr
    environment.pip("install", "--no-deps", str(wheels["format-npz"]))
    assert names(environment, "format") == {"npz"}
    written = environment.llmasos(*export)
    assert written.returncode == 0, written.stderr
    facts = json.loads(written.stdout)
    assert (facts["format"], facts["facts"]) == ("npz", {"tensors": 11, "dtype": "float16"})
    assert facts["size"] == sum(file.stat().st_size for file in folder.iterdir())
    again = environment.llmasos(*export)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    assert environment.llmasos(*export, "--force").returncode == 0
    wrong = environment.llmasos("models", "export", str(checkpoint), "--npz", "float8", "--output", str(folder), "--force")
    assert (wrong.returncode, "--npz.dtype" in wrong.stderr) == (2, True), wrong.stderr
    assert [path.name for path in environment.home.iterdir() if "partial" in path.name] == []
    done = environment.llmasos(*run)
    assert (done.returncode, done.stdout) == (0, "defg\n"), done.stderr
    shown = environment.llmasos("models", "show", str(folder), "--json")
    assert json.loads(shown.stdout)["format"] == "neutral"
    environment.pip("uninstall", "--yes", "format-npz")
    assert names(environment, "format") == set()
    gone = environment.llmasos(*run)
    assert (gone.returncode, "is no model folder" in gone.stderr) == (1, True), gone.stderr


def test_an_external_command_comes_runs_and_goes(environment, wheels, checkpoint, counting_lifo):
    """It is in the help with its distribution, has its own help and options, and opens models by its context."""
    assert "how sure" not in environment.llmasos("--help").stdout
    environment.pip("install", "--no-deps", str(wheels["command-sure"]))
    assert names(environment, "command") == {"sure"}
    assert "how sure" in environment.llmasos("--help").stdout
    assert "Usage: llmasos sure" in environment.llmasos("sure", "--help").stdout
    (environment.home / "llmasos.toml").write_text('scheduler.use = "lifo"\n')
    done = environment.llmasos("sure", "a bcd", "--model", str(checkpoint), "--json")
    (environment.home / "llmasos.toml").unlink()
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout)["mean_probability"] <= 1
    wrong = environment.llmasos("sure", "alone")
    assert (wrong.returncode, wrong.stderr) == (2, "Error: 'alone' has one word; give two words at least.\n")
    assert environment.llmasos("sure", "a b", "--nonsense").returncode == 2
    environment.pip("uninstall", "--yes", "command-sure")
    assert "how sure" not in environment.llmasos("--help").stdout
    assert environment.llmasos("sure", "a b").returncode == 2


def test_an_external_suite_comes_measures_and_goes(environment, wheels, checkpoint, counting_lifo):
    """From ``evaluate``, and by config for the stages of an acceleration."""
    evaluate = (
        "evaluate",
        str(checkpoint),
        "--loader",
        "counting",
        "--suite",
        "surprise:windows=2,length=32",
        "--set",
        "scheduler.use=lifo",
    )
    verbless = environment.llmasos(*evaluate)
    assert verbless.stderr == "Error: llmasos evaluate is not installed; pip install llmasos-suite-quality.\n"
    with environment.with_wheels(wheels["llmasos-suite-quality"], wheels["llmasos-task-kit"]):
        comes_measures_and_goes(environment, wheels, checkpoint, evaluate)


def comes_measures_and_goes(environment, wheels, checkpoint, evaluate):
    """And an accelerator with it."""
    missing = environment.llmasos(*evaluate)
    assert (missing.returncode, 'No suite "surprise" is installed' in missing.stderr) == (1, True), missing.stderr
    environment.pip("install", "--no-deps", str(wheels["suite-surprise"]), str(wheels["accel-round"]))
    assert names(environment, "suite") == {"quality", "size", "speed", "surprise"}
    assert names(environment, "accelerator") == {"round"}
    done = environment.llmasos(*evaluate, "--json")
    assert done.returncode == 0, done.stderr
    (figures,) = (results["surprise"]["figures"] for results in json.loads(done.stdout)["models"].values())
    assert set(figures) == {"early", "late", "gained"}
    assert figures["early"]["better"] == "lower"
    report = environment.home / "report"
    assert environment.llmasos(*evaluate, "--output", str(report)).returncode == 0
    assert "What reading gains" in (report / "report.html").read_text(encoding="utf-8")
    config = environment.home / "with-suite.toml"
    config.write_text(
        f'model.source = "{checkpoint}"\nloader.use = "counting"\nscheduler.use = "lifo"\n[[accelerate]]\nuse = "round"\n'
        '[[suites]]\nuse = "surprise"\nwindows = 2\nlength = 32\n'
    )
    accelerated = environment.llmasos("accelerate", "--config", str(config), "--windows", "2", "--length", "32", "--json")
    assert accelerated.returncode == 0, accelerated.stderr
    found = json.loads(accelerated.stdout)
    assert "late" in found["base_suites"]["surprise"]["figures"]
    assert "late" in found["stages"][0]["suites"]["surprise"]["figures"]
    assert found["stages"][0]["measurement"]["quality"]["window"] == found["length"] == 32
    environment.pip("uninstall", "--yes", "suite-surprise", "accel-round")
    assert names(environment, "accelerator") == set()
    assert environment.llmasos(*evaluate).stderr == missing.stderr
