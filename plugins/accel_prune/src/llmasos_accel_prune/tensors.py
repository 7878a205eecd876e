"""Names and forms of tensors."""

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
    """A tensor of a file with 4-bit blocks as float32, without loss; others as they are.

    Pruned weights are plain: the stages after this one train or quantise them.
    """
    return tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor
