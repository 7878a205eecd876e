"""Pruning: the accelerator ``prune``."""

from __future__ import annotations

from pathlib import Path

from llmasos_accel_prune.options import Options
from llmasos_accel_prune.plan import plan_pruning
from llmasos_hookspecs import AccelerationResult, Checkpoint, Component, Context, hookimpl


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Drop layers or narrow the MLPs, which makes the model smaller and faster; or mask weights, which does neither on a CPU.",
        options=Options,
        calibration=True,
        plan=plan_pruning,
        examples=("llmasos accelerate smollm2 --stage prune:method=layers,drop=6 --output smollm2-24-layers",),
    )


@hookimpl
def llmasos_accelerate(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    if options.masks:
        from llmasos_accel_prune.masks import mask_checkpoint

        return mask_checkpoint(checkpoint, output, options, context)
    if options.method == "mlp":
        from llmasos_accel_prune.mlp import narrow_checkpoint

        return narrow_checkpoint(checkpoint, output, options, context)
    from llmasos_accel_prune.layers import drop_layers

    return drop_layers(checkpoint, output, options, context)
