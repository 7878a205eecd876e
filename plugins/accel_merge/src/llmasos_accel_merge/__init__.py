"""The accelerator ``merge``: a LoRA adapter becomes part of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmasos_accel_merge.options import Options
from llmasos_hookspecs import AccelerationResult, Checkpoint, Component, Context, DecoderConfig, StagePlan, hookimpl


def _plan(decoder: DecoderConfig, options: Options, state: Mapping[str, Any]) -> StagePlan:
    problems = [] if options.adapter else ["No adapter is named; give adapter, the folder of a LoRA adapter."]
    if state.get("quantized"):
        problems.append("Merging changes float weights, and these are quantised; put merge before quant.")
    if state.get("masked"):
        problems.append("Merging would fill the zeros of the mask; put merge before the stage that masks.")
    return StagePlan(problems=tuple(problems), leaves={"quantized": False})


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Add a LoRA adapter to the weights, so that every loader computes it and later stages quantise it.",
        options=Options,
        architectures=("*",),
        plan=_plan,
        examples=("llmasos accelerate smollm2 --stage merge:adapter=./my-lora --output smollm2-mine",),
    )


@hookimpl
def llmasos_accelerate(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    from llmasos_accel_merge.merging import merge_checkpoint  # numpy's matrices are for the stage alone

    return merge_checkpoint(checkpoint, output, options, context)
