"""A plan that cannot work says why, all of it, before a stage runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from llmasos.acceleration.plan import initial_state
from llmasos.compose.formats import open_model
from llmasos_hookspecs import StagePlan
from llmasos_hookspecs.testing import tiny_checkpoint

from .conftest import Bench, noisy


def test_all_problems_come_in_one_message(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("kept")
    problems = bench.problems(["int8", "int8", ("noise", {"amont": 3}), "nose", ("noise", {"amount": "much"})], output=tmp_path / "there")
    expected = [
        "there exists already",
        "accelerate[1]: The weights are quantised already",
        "accelerate[2].amont is unknown",
        'accelerate[2]: "noise" is a structure stage and comes after a quant stage',
        'accelerate[3]: The accelerator "nose" is not installed',
        "accelerate[4].amount",
        'accelerate[4]: "noise" is a structure stage',
    ]
    assert len(problems) == len(expected)
    for sentence, problem in zip(expected, problems, strict=True):
        assert sentence in problem
    assert (tmp_path / "there" / "file").read_text() == "kept"


def test_a_stage_may_come_anywhere_where_it_names_none(bench: Bench) -> None:
    assert [stage.name for stage in bench.run(["noise", "text", "int8"]).stages] == ["noise", "text", "int8"]
    assert [stage.name for stage in bench.run(["int8", "text"]).stages] == ["int8", "text"]


def test_a_plan_sees_what_the_stages_before_it_leave(bench: Bench) -> None:
    seen: list[Any] = []

    def narrower(decoder: Any, options: Any, state: Any) -> StagePlan:
        seen.append((decoder.intermediate_size, dict(state)))
        return StagePlan(decoder=attrs.evolve(decoder, intermediate_size=decoder.intermediate_size // 2), leaves={"narrowed": True})

    bench.add("narrow", noisy, plan=narrower)
    bench.problems(["narrow", "narrow", "nothing"])
    nothing = {"quantized": False, "masked": False, "changed": False}
    assert seen == [(128, nothing), (64, {**nothing, "changed": True, "narrowed": True})]


def test_the_stage_may_depend_on_the_options(bench: Bench) -> None:
    bench.add("either", noisy, plan=lambda _, options, __: StagePlan(stage="mask" if options.amount > 1 else "structure"))
    (problem,) = bench.problems([("either", {"amount": 2.0}), "either"])
    assert '"either" is a structure stage and comes after a mask stage' in problem


def test_an_architecture_that_an_accelerator_does_not_take_is_refused(bench: Bench) -> None:
    bench.add("qwen", noisy, architectures=("qwen3",))
    (problem,) = bench.problems(["qwen"])
    assert "takes the architectures qwen3, and " in problem


def test_a_framework_that_is_missing_is_named(bench: Bench) -> None:
    bench.add("heavy", noisy, frameworks={"no_such_framework": "no-such-distribution"})
    (problem,) = bench.problems(["heavy"])
    assert "pip install no-such-distribution" in problem


def test_calibration_without_a_tokenizer_is_refused(bench: Bench) -> None:
    for file in (bench.folder / "model").glob("*token*"):
        file.unlink()
    (problem,) = bench.problems(["text"])
    assert '"text" calibrates on text, and the model has no tokenizer' in problem
    assert bench.run(["noise"]).stages


def test_a_plan_may_say_that_it_needs_no_text(bench: Bench) -> None:
    bench.add("maybe", noisy, calibration=True, plan=lambda *_: StagePlan(calibration=False))
    for file in (bench.folder / "model").glob("*token*"):
        file.unlink()
    assert bench.run(["maybe"]).stages


def test_no_stage_at_all_is_refused(bench: Bench) -> None:
    assert bench.problems([]) == ("No stage is named; name at least one accelerator.",)


def test_what_was_quantised_by_an_earlier_run_is_known(bench: Bench) -> None:
    bench.run(["int8"], output=bench.folder / "int8")
    bench.log.clear()
    (problem,) = bench.problems(["int8"], model=open_model(bench.folder / "int8"))
    assert "quantised already" in problem


@pytest.mark.parametrize(
    ("config", "form", "quantized"),
    [
        ({}, "huggingface", False),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "huggingface", True),
        ({"quantization_config": {"quant_method": "gguf"}}, "gguf", False),
    ],
)
def test_a_foreign_quantised_folder_counts_as_quantised_and_a_gguf_file_does_not(
    config: dict[str, Any], form: str, quantized: bool
) -> None:
    tiny = tiny_checkpoint("llama")
    assert initial_state(attrs.evolve(tiny, config={**tiny.config, **config}, format=form))["quantized"] is quantized
