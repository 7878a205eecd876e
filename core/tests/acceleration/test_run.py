"""Stages run from checkpoint to checkpoint, are found again, and say what they cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos.acceleration.corpus import Corpus
from llmasos.compose.formats import open_model
from llmasos_hookspecs import AccelerationError, AccelerationResult, CheckpointError, PluginError, StagePlan, as_float32, hookimpl
from llmasos_hookspecs.testing import tiny_checkpoint

from .conftest import CORPUS, Bench, Peak, is_quantized, named, noisy, rounded


def test_each_stage_starts_from_what_the_one_before_left(bench: Bench) -> None:
    report = bench.run(["noise", "text", "int8"], output=bench.folder / "out")
    written = open_model(report.path)
    assert is_quantized(written)
    norm = "model.norm.weight"
    assert (as_float32(written.tensor(norm)) > as_float32(bench.model.tensor(norm))).all()
    stages = written.manifest["stages"]
    assert [stage["use"] for stage in stages] == ["accel-noise:noise", "accel-text:text", "accel-int8:int8"]
    assert written.manifest["base"] == bench.model.digest
    assert [stage["seed"] for stage in stages] == [0, 0, 0]
    assert stages[0]["options"] == {"amount": 0.01, "windows": 2}
    assert stages[0]["report"]["notes"] == ["noise was here."]


def test_a_stage_that_ran_before_is_found_again(bench: Bench) -> None:
    first = bench.run(["noise", "int8"], output=bench.folder / "one")
    second = bench.run(["noise", "int8"], output=bench.folder / "two")
    assert bench.log == ["noise", "int8"]
    assert [stage.cached for stage in first.stages] == [False, False]
    assert [stage.cached for stage in second.stages] == [True, True]
    assert open_model(first.path).digest == open_model(second.path).digest
    assert [stage.touched for stage in first.stages] == [stage.touched for stage in second.stages]


def test_whatever_goes_into_a_stage_makes_it_run_anew(bench: Bench) -> None:
    """An option, the seed, the version, the order and the model, each alone changed; the stages' log tells which ran."""
    bench.run(["noise", "text"])

    def made_anew(stages: Sequence[Any] = ("noise", "text"), **more: Any) -> list[str]:
        bench.log.clear()
        bench.run(stages, **more)
        return list(bench.log)

    assert made_anew() == []
    assert made_anew([("noise", {"amount": 0.02}), "text"]) == ["noise", "text"]
    assert made_anew(seed=1) == ["noise", "text"]
    first = bench.accelerators["noise"]
    bench.add("noise", noisy, stage="structure", version="1.1")
    assert made_anew() == ["noise", "text"]
    bench.add("noise", noisy)
    assert made_anew(["text", "noise"]) == ["text", "noise"]
    bench.accelerators["noise"] = first
    assert made_anew() == []
    config = bench.folder / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 2e-5}))
    assert made_anew() == ["noise", "text"]


def test_other_calibration_text_makes_only_calibrated_stages_run_anew(bench: Bench) -> None:
    bench.run(["noise", "text"])
    paragraphs = "\n\n".join(f"Paragraph {number} of another corpus, long enough for a window of text." for number in range(60))
    bench.run(["noise", "text"], corpus=Corpus.from_text(paragraphs, name="other"))
    assert bench.log == ["noise", "text", "text"]


def test_a_stage_that_skips_too_much_is_refused_unless_allowed(bench: Bench) -> None:
    def half(name: str, tensor: Any, options: Any, context: Any) -> Any:
        if not name.endswith("_proj.weight"):
            return tensor
        return "it is not in the first layer" if ".layers.0." not in name else rounded(name, tensor, options, context)

    bench.add("half", half)
    for _ in range(2):  # and it is not found in the cache afterwards
        with pytest.raises(AccelerationError, match=r'"half" changed only 50% .*\(7 skipped, such as model\.layers\.1\..*not in the first'):
            bench.run(["half"])
    report = bench.run(["half"], allow_low_coverage=True)
    assert report.stages[0].coverage == pytest.approx(0.5)
    assert len(report.stages[0].skipped) == 7
    assert any("skipped 7 tensors" in note for note in report.notes)
    with pytest.raises(AccelerationError, match="changed only 50%"):
        bench.run(["half"])


def test_a_failing_stage_leaves_nothing_and_the_good_ones_stay(bench: Bench) -> None:
    def broken(name: str, tensor: Any, options: Any, context: Any) -> Any:
        raise CheckpointError("The tensor is damaged.")

    bench.add("broken", broken)
    with pytest.raises(CheckpointError, match="damaged"):
        bench.run(["noise", "broken"], output=bench.folder / "out")
    assert not (bench.folder / "out").exists()
    assert [folder.name[0] == "." for folder in (bench.folder / "cache" / "stages").iterdir() if folder.is_dir()] == [False]
    bench.add("broken", noisy)
    report = bench.run(["noise", "broken"])
    assert [stage.cached for stage in report.stages] == [True, False]


def test_a_plugin_that_writes_elsewhere_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = bench.accelerators["noise"]
    original = loaded.module.llmasos_accelerate

    def elsewhere(checkpoint: Any, output: Path, options: Any, context: Any) -> Any:
        return AccelerationResult(path=original(checkpoint, output.parent / "elsewhere", options, context).path)

    elsewhere.__name__ = "llmasos_accelerate"
    monkeypatch.setattr(loaded.module, "llmasos_accelerate", hookimpl(elsewhere))
    with pytest.raises(AccelerationError, match="did not write its checkpoint to the output it was given"):
        bench.run(["noise"])


def test_a_damaged_cache_entry_is_made_anew(bench: Bench) -> None:
    bench.run(["noise"])
    (entry,) = (folder for folder in (bench.folder / "cache" / "stages").iterdir() if folder.is_dir())
    (entry / "stage.json").write_text("{")
    assert not bench.run(["noise"]).stages[0].cached
    assert bench.log == ["noise", "noise"]


def test_the_output_holds_the_model_the_report_and_the_page(bench: Bench) -> None:
    report = bench.run(["noise", "int8"], output=bench.folder / "out", measure=True)
    found = json.loads((bench.folder / "out" / "report.json").read_text())
    assert found == json.loads(json.dumps({**report.to_dict(), "path": "."}))
    stages = open_model(bench.folder / "out").manifest["stages"]
    assert stages[1]["measured"]["peak"]["peak"] == report.stages[1].measurement.peak.peak
    page = (bench.folder / "out" / "report.html").read_text()
    assert "noise was here." in page
    assert "accel-int8:int8 1.0; 14 tensors touched, coverage 100.0%." in page


def test_the_output_is_verified_when_it_is_read(bench: Bench) -> None:
    """The model loads without any accelerator; a flipped bit is found."""
    bench.run(["noise"], output=bench.folder / "out")
    weights = bench.folder / "out" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    checkpoint = open_model(bench.folder / "out")
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoint.tensor("model.norm.weight")


def test_the_table_has_a_row_for_the_base_and_each_stage(bench: Bench) -> None:
    report = bench.run(["noise", "int8"], measure=True)
    rows = report.rows()
    assert [row[0] for row in rows] == ["base", "noise", "int8"]
    assert all(len(row) == len(report.columns()) for row in rows)
    assert str(report).splitlines()[0].startswith("stage")
    assert "±" in rows[1][1]


def test_calibration_text_is_no_evaluation_text(bench: Bench) -> None:
    given: list[np.ndarray] = []

    def spy(name: str, tensor: Any, options: Any, context: Any) -> Any:
        if not given:
            given.append(context.calibration(200, 64))
        return tensor + np.float32(0.001) if name == "model.norm.weight" else tensor

    bench.add("spy", spy, calibration=True)
    bench.run(["spy"])
    tokenizer = bench.model.tokenizer()
    # A byte tokenizer may cut a window through a character, which decodes to U+FFFD.
    assert all(tokenizer.decode(window.tolist()).strip("\ufffd") in CORPUS.calibration for window in given[0])
    evaluated = CORPUS.evaluation_windows(tokenizer, 400, 64)
    assert all(tokenizer.decode(window.tolist()).strip("\ufffd") in CORPUS.evaluation for window in evaluated)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.embed_tokens.weight", np.nan),
        ("model.layers.1.mlp.down_proj.weight", np.inf),
        ("model.norm.weight", -np.inf),
        *(
            pytest.param(name, value, marks=pytest.mark.long)
            for name, values in (
                ("model.embed_tokens.weight", (np.inf, -np.inf)),
                ("model.layers.1.mlp.down_proj.weight", (np.nan, -np.inf)),
                ("model.norm.weight", (np.nan, np.inf)),
            )
            for value in values
        ),
    ],
)
def test_nan_that_a_stage_leaves_is_not_kept(bench: Bench, name: str, value: float) -> None:
    """The stage and the tensor are named, the stage before stays, and the next run makes the stage anew."""

    def overflowing(each: str, tensor: Any, options: Any, context: Any) -> Any:
        if each != name:
            return tensor
        changed = np.array(tensor)
        changed.reshape(-1)[3] = value
        return changed

    bench.add("broken", overflowing)
    for _ in range(2):
        with pytest.raises(AccelerationError, match=f'"broken" left NaN or infinity in {name}'):
            bench.run(["noise", "broken"], output=bench.folder / "out")
    assert bench.log == ["noise", "broken", "broken"]
    assert not (bench.folder / "out").exists()
    assert len(list((bench.folder / "cache" / "stages").glob("[!.]*"))) == 1


def test_scales_that_overflow_are_found_too(bench: Bench) -> None:
    def overflowing(each: str, tensor: Any, options: Any, context: Any) -> Any:
        if not each.endswith("q_proj.weight"):
            return tensor
        codes = rounded(each, tensor, options, context)
        codes.scales[0, 0] = np.inf
        return codes

    bench.add("broken", overflowing)
    with pytest.raises(AccelerationError, match=r'"broken" left NaN or infinity in model\.layers\.0\.self_attn\.q_proj'):
        bench.run(["broken"])


def test_windows_longer_than_the_context_are_fitted_when_the_run_is_planned(bench: Bench) -> None:
    """The model has 256 positions; a limit of the backend counts as well."""
    report = bench.run(["noise"], measure=True, suites=[named(Peak(length=512))])
    assert (report.windows, report.length) == (1, 256)
    seen: list[tuple[int, ...]] = []

    def reading(each: str, tensor: Any, options: Any, context: Any) -> Any:
        if each == "model.norm.weight":
            seen.append(context.calibration(2, 512).shape)
        return tensor

    bench.add("reading", reading, calibration=True)
    bench.run(["reading"])
    assert seen == [(2, 256)]


def test_another_model_that_a_stage_reads_is_judged_before_the_first_stage(bench: Bench) -> None:
    """One that is not there, one that the stage cannot use, and one that it can."""
    tiny_checkpoint("llama", folder=bench.folder / "wide", vocab_size=300)

    def plan(path: Path) -> Any:
        def judge(found: Any) -> list[str]:
            return [] if found.vocab_size == 288 else [f"It has {found.vocab_size} tokens."]

        return lambda *_: StagePlan(opens={str(path): judge})

    for path, problem in ((bench.folder / "gone", "does not exist"), (bench.folder / "wide", "It has 300 tokens.")):
        bench.add("taught", noisy, plan=plan(path))
        assert problem in " ".join(bench.problems(["noise", "taught"]))
    bench.add("taught", noisy, plan=plan(bench.folder / "model"))
    bench.run(["noise", "taught"])
    assert bench.log == ["noise", "taught"]


CURVE = {"Loss": {"training": [(0, 2.5), (1, float("nan")), [2, None]]}}


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"report": {"curves": [1, 2]}}, "a report whose curves cannot be drawn ('list' object has no attribute 'items')"),
        ({"report": {"curves": {"Loss": {"training": [1, 2]}}}}, "the line 'training' has 1 instead of a point (x, y)"),
        ({"report": {"curves": {"Loss": {"training": [(0, "low")]}}}}, "the line 'training' has (0, 'low') instead of a point (x, y)"),
        ({"report": {"curves": {3: {}}}}, "the section 3 has 3 where text belongs"),
        ({"report": {"notes": [7]}}, "a report whose notes are [7], and they must be sentences"),
        ({"touched": (5,)}, "an AccelerationResult whose touched and skipped are no names and reasons"),
        ({"skipped": {"a": 0.5}}, "an AccelerationResult whose touched and skipped are no names and reasons"),
    ],
    ids=str,
)
def test_what_an_accelerator_says_wrongly_is_its_own_fault(bench: Bench, said: dict[str, Any], fault: str) -> None:
    """And not that of the suite which draws it: the stage is refused before it is kept, where nothing is drawn too."""
    bench.add("odd", noisy, said=said)
    with pytest.raises(PluginError) as caught:
        bench.run(["odd"], suites=[named(Peak())], output=bench.folder / "out")
    assert fault in str(caught.value)
    assert str(caught.value).startswith('The accelerator "odd" (accel-odd 1.0) returned ')
    assert not (bench.folder / "out").exists()


def test_curves_are_drawn_with_what_is_not_finite_left_out(bench: Bench) -> None:
    """A loss that was once not a number costs no stage its report."""
    bench.add("odd", noisy, said={"report": {"curves": CURVE}})
    report = bench.run(["odd"], output=bench.folder / "out")
    (curves,) = [section.lines for section in report.to_page().sections if section.title == "Loss"]
    assert curves == {"training": [[0, 2.5], [1, None], [2, None]]}
