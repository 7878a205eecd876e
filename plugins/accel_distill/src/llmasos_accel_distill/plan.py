"""What distillation would do, and why it cannot, before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmasos_accel_distill.options import Options
from llmasos_hookspecs import DecoderConfig, StagePlan


def plan_distillation(decoder: DecoderConfig, options: Options, state: Mapping[str, Any]) -> StagePlan:
    """All problems at once; the decoder stays as it is."""
    problems = []
    if state.get("quantized"):
        problems.append("Training needs float weights, and these are quantised; put distill before quant.")
    if state.get("masked"):
        problems.append("Training would fill the zeros of the mask; put distill before the mask.")
    if options.held_out >= options.windows:
        problems.append(f"held_out = {options.held_out} leaves none of the {options.windows} windows to train on; ask for more windows.")
    if options.length > decoder.context_length:
        problems.append(f"length = {options.length} is longer than the model's context of {decoder.context_length}; shorten it.")
    return StagePlan(problems=tuple(problems))
