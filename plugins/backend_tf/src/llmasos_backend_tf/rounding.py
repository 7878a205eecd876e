"""Which weights are computed from codes of 8 bits, and how they are rounded."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from llmasos_backend_tf.options import Options
from llmasos_hookspecs import Checkpoint, QuantizedTensor, Tensor, as_float32

#: Columns that share a scale, where the checkpoint does not say.
GROUP: Final = 32


def chosen_precision(checkpoint: Checkpoint, options: Options) -> str:
    """``fp32`` or ``int8``: what the options say, or for ``auto`` the checkpoint."""
    if options.precision != "auto":
        return options.precision
    return "int8" if isinstance(_deciding_matrix(checkpoint), QuantizedTensor) else "fp32"


def stored_dtype(checkpoint: Checkpoint) -> str:
    """What kernels compute a checkpoint of stored codes from."""
    tensor = _deciding_matrix(checkpoint)
    return "int4" if isinstance(tensor, QuantizedTensor) and tensor.bits <= 4 else "int8"


def _deciding_matrix(checkpoint: Checkpoint) -> Tensor:
    """A layer's matrix, because the embedding is often stored wider."""
    return checkpoint.tensor(f"{checkpoint.decoder.linears(0)['up'].module}.weight")


def int8_codes(tensor: Tensor) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Codes int8 [out, in] and scales [out, groups]: those of a symmetric 8-bit tensor, else rounded to nearest."""
    rows, columns = tensor.shape
    if isinstance(tensor, QuantizedTensor) and tensor.bits == 8 and tensor.symmetric and columns % tensor.group == 0:
        return (tensor.codes.astype(np.int16) - 128).astype(np.int8), np.ascontiguousarray(tensor.scales)
    group = GROUP if columns % GROUP == 0 else columns
    blocks = as_float32(tensor).reshape(rows, columns // group, group)
    scales = np.maximum(np.abs(blocks).max(-1) / np.float32(127), np.float32(1e-12))
    codes = np.clip(np.rint(blocks / scales[..., None]), -127, 127).astype(np.int8)
    return codes.reshape(rows, columns), scales


def as_codes(tensor: Tensor) -> QuantizedTensor:
    """The tensor in ``int8_codes``."""
    codes, scales = int8_codes(tensor)
    shifted = (codes.astype(np.int16) + 128).astype(np.uint8)
    return QuantizedTensor(codes=shifted, scales=scales, bits=8, group=tensor.shape[1] // scales.shape[1])
