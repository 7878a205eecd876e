"""The library's operators for ONNX Runtime, as loaders find them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from llmasos_decoder_kit.onnx_operators import InstalledAttention, PackedLinear
from llmasos_hookspecs import QuantizedTensor
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.drawing import CpuDraws
from llmasos_kernels_cpu.packing import pack
from llmasos_kernels_cpu.shape import PRECISIONS, ROWS, Precision

#: Version of the packed layout and of the operators; increase it with every change of ``native/matrix.h`` or of their attributes.
LAYOUT: Final = 3
_DOMAIN: Final = "llmasos.kernels_cpu"


class CpuOperators:
    """Products of packed matrices with activations in int8, for groups of a multiple of 16 columns, or one a row; attention; draws."""

    name = f"cpu/{LAYOUT}"
    precision: Precision = "int8"
    attention = InstalledAttention(_DOMAIN, "Attention")
    draws = CpuDraws()
    pool = f"{_DOMAIN}.threads"

    @property
    def library(self) -> Path:
        return library.PATH

    def refusal(self) -> str | None:
        return library.refusal()

    def linear(self, tensors: Sequence[QuantizedTensor]) -> PackedLinear | None:
        matrix = pack(tensors)
        if matrix is None:
            return None
        return PackedLinear(
            domain=_DOMAIN,
            product="Product",
            rows_of="Rows",
            attributes={**matrix.shape.attributes(), "gated": 0, "epsilon": 0.0, "precision": PRECISIONS.index(self.precision)},
            data=matrix.data,
            rows=matrix.shape.rows,
            columns=matrix.shape.columns,
            bits=matrix.shape.bits,
            fuses=True,
            gates=matrix.shape.rows % (2 * ROWS) == 0,
        )


class BFloat16Operators(CpuOperators):
    """The same with activations in bfloat16: a quarter of the rounding, for products that take longer."""

    name = f"cpu_bf16/{LAYOUT}"
    precision: Precision = "bf16"

    def refusal(self) -> str | None:
        """Who wants them asks for them by name."""
        return "those with activations in int8 are faster"
