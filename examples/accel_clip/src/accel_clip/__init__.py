"""Clips the outliers of linear weights."""

import attrs
import numpy as np

from llmasos_hookspecs import Component, QuantizedTensor, StagePlan, as_float32, hookimpl


@attrs.frozen
class Options:
    deviations: float = attrs.field(
        default=6.0, validator=attrs.validators.gt(0), metadata={"help": "Standard deviations of a row beyond which a weight is clipped."}
    )


def plan(decoder, options, state):
    if state.get("quantized"):
        return StagePlan(problems=("Codes cannot be clipped; put clip before quant.",))
    return StagePlan()


@hookimpl
def llmasos_component():
    return Component(summary="Clip outliers before quantisation.", options=Options, plan=plan)


@hookimpl
def llmasos_accelerate(checkpoint, output, options, context):
    clipped = 0
    with context.writer(checkpoint, output) as writer:
        for name in checkpoint.names():
            tensor = checkpoint.tensor(name)
            if not name.endswith("_proj.weight"):
                writer.add(name, tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor)
                continue
            weight = as_float32(tensor)
            limit = options.deviations * weight.std(axis=1, keepdims=True)
            writer.add(name, np.clip(weight, -limit, limit))
            clipped += int(np.count_nonzero(np.abs(weight) > limit))
    return writer.result(clipped=clipped)
