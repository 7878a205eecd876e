"""The library's kernels over memory, as loaders find them."""

from __future__ import annotations

from collections.abc import Sequence

from llmasos_decoder_kit.cpu_kernels import AttentionOf, CpuAttention, CpuLinear, RmsNorm
from llmasos_hookspecs import QuantizedTensor
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.library import Floats
from llmasos_kernels_cpu.packing import pack
from llmasos_kernels_cpu.shape import ROWS, Precision


class CpuKernels:
    """Products of packed matrices with activations in int8, and attention."""

    precision: Precision = "int8"

    def refusal(self) -> str | None:
        return library.refusal()

    def linear(
        self,
        tensors: Sequence[QuantizedTensor],
        *,
        threads: int,
        bias: Floats | None = None,
        norm: RmsNorm | None = None,
        gated: bool = False,
    ) -> CpuLinear | None:
        matrix = pack(tensors)
        if matrix is None or (gated and matrix.shape.rows % (2 * ROWS)):
            return None
        return library.Product(matrix, bias, norm, gated=gated, precision=self.precision, threads=threads)

    def attention(self, form: AttentionOf, *, threads: int) -> CpuAttention | None:
        if form.width % ROWS or form.heads % form.kv_heads:
            return None
        rotations = (form.cosines, form.sines)
        return library.Attending(
            library.Attention(heads=form.heads, kv_heads=form.kv_heads, scale=form.scale, window=form.window, rotations=rotations),
            form.width,
            threads=threads,
        )


class BFloat16Kernels(CpuKernels):
    """The same with activations in bfloat16: a quarter of the rounding, for products that take longer."""

    precision: Precision = "bf16"

    def refusal(self) -> str | None:
        """Who wants them asks for them by name."""
        return "those with activations in int8 are faster"
