"""Names and formats of tensors."""

from __future__ import annotations

import re
from typing import Final

from llmasos_hookspecs import QuantizedTensor, Tensor

_LINEAR: Final = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")
LAYER: Final = re.compile(r"model\.layers\.(\d+)\.(.+)")


def is_linear(name: str) -> bool:
    """Whether it is a linear weight of a layer."""
    return _LINEAR.fullmatch(name) is not None


def plain(tensor: Tensor) -> Tensor:
    """A quantised tensor dequantised to float32; other tensors unchanged.

    Pruned weights are floats, because later stages train or quantise them.
    """
    return tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor
