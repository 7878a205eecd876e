"""Weight-only quantisation: the accelerator ``quant``."""

from __future__ import annotations

from pathlib import Path

from llmasos_accel_quant.options import Options
from llmasos_accel_quant.plan import plan_quantization
from llmasos_hookspecs import AccelerationResult, Checkpoint, Component, Context, hookimpl


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Weight-only int8 and int4: round to nearest, GPTQ or AWQ; stored in the compressed-tensors layout.",
        options=Options,
        stage="quant",
        calibration=True,
        plan=plan_quantization,
        examples=("llmasos accelerate smollm2 --stage quant:bits=4 --output smollm2-int4",),
    )


@hookimpl
def llmasos_accelerate(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    from llmasos_accel_quant.stage import quantize_checkpoint

    return quantize_checkpoint(checkpoint, output, options, context)
