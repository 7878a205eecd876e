"""Distillation: the accelerator ``distill``."""

from __future__ import annotations

from pathlib import Path

from llmasos_accel_distill.options import Options
from llmasos_accel_distill.plan import plan_distillation
from llmasos_hookspecs import AccelerationResult, Checkpoint, Component, Context, hookimpl


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Train a pruned model to predict what the model it was made of predicts.",
        options=Options,
        frameworks={"torch": "torch", "safetensors": "safetensors"},
        stage="distil",
        calibration=True,
        plan=plan_distillation,
        examples=("llmasos accelerate smollm2 --stage prune:drop=6 --stage distill:steps=1500 --output smollm2-24-layers",),
    )


@hookimpl
def llmasos_accelerate(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    from llmasos_accel_distill.stage import distill_checkpoint

    return distill_checkpoint(checkpoint, output, options, context)
