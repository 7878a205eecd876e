"""What the plan refuses."""

from __future__ import annotations

import sys

import attrs
import pytest

from llmasos_accel_quant import Options
from llmasos_accel_quant.plan import plan_quantization
from llmasos_hookspecs.testing import tiny_checkpoint

DECODER = tiny_checkpoint("llama").decoder
CLEAN = {"quantized": False, "masked": False}


def test_quantising_twice_is_refused() -> None:
    (problem,) = plan_quantization(DECODER, Options(), {**CLEAN, "quantized": True}).problems
    assert "quantised already" in problem


@pytest.mark.parametrize("group", [1, 24, 48, -32, 512])
def test_a_group_that_no_kernel_knows_is_refused(group: int) -> None:
    (problem,) = plan_quantization(DECODER, Options(group=group, head_group=32), CLEAN).problems
    assert f"group = {group} cannot be" in problem


def test_widths_that_no_group_divides_are_named() -> None:
    odd = attrs.evolve(DECODER, hidden_size=100, intermediate_size=200)
    problems = plan_quantization(odd, Options(bits=4), CLEAN).problems
    assert [name for name in ("hidden_size is 100", "intermediate_size is 200") for problem in problems if name in problem] == [
        "hidden_size is 100",
        "intermediate_size is 200",
    ]
    assert not plan_quantization(odd, Options(bits=8), CLEAN).problems


def test_a_width_that_the_heads_group_does_not_divide_is_told_by_that_option() -> None:
    odd = attrs.evolve(DECODER, hidden_size=100)
    problems = plan_quantization(odd, Options(bits=4, group=0, head_group=64), CLEAN).problems
    assert [problem.partition(" cannot be: ")[0] for problem in problems] == ["head_group = 64"]
    assert "hidden_size is 100" in problems[0]


def test_calibration_without_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llmasos_torch_decoder", None)
    (problem,) = plan_quantization(DECODER, Options(bits=4, method="gptq"), CLEAN).problems
    assert 'pip install "llmasos-accel-quant[calibrated]", or set method = "rtn"' in problem
    assert not plan_quantization(DECODER, Options(bits=4, method="rtn"), CLEAN).problems


def test_all_problems_come_at_once() -> None:
    assert len(plan_quantization(DECODER, Options(group=24, head_group=7), {**CLEAN, "quantized": True}).problems) == 3


def test_rounding_to_nearest_asks_for_no_text() -> None:
    assert plan_quantization(DECODER, Options(bits=8), CLEAN).calibration is False
    assert plan_quantization(DECODER, Options(bits=4), CLEAN).calibration is True
    assert plan_quantization(DECODER, Options(bits=4, method="rtn"), CLEAN).calibration is False
