"""Rounds the norm weights of a checkpoint."""

import attrs
import numpy as np

from llmasos_hookspecs import Component, hookimpl


@attrs.frozen
class Options:
    decimals: int = attrs.field(default=2, validator=attrs.validators.ge(0), metadata={"help": "Decimals that are kept."})


def rounded(tensor, decimals=2):
    """The tensor in its own dtype, with each weight rounded."""
    return np.round(np.asarray(tensor, dtype=np.float32), decimals).astype(tensor.dtype)


@hookimpl
def llmasos_component():
    return Component(summary="Round norm weights.", options=Options)


@hookimpl
def llmasos_accelerate(checkpoint, output, options, context):
    with context.writer(checkpoint, output) as writer:
        for name in checkpoint.names():
            tensor = checkpoint.tensor(name)  # a numpy array, or a QuantizedTensor
            writer.add(name, rounded(tensor, options.decimals) if "norm" in name else tensor)
    return writer.result()
