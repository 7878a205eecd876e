"""Linear layers: one class a kernel, each over weights packed for it."""

from __future__ import annotations

import functools
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from llmasos_backend_torch import quantized

#: From this many tokens on, the layouts for many tokens are faster. Measured per step of SmolLM2's layers on two cores (Sapphire
#: Rapids): float32 transposed 13 ms at 1 token, 20 at 2, 31 at 8; packed 18, 20, 23. int4 3 ms at 1 token, 10 at 8, 38 at 32; bfloat16
#: packed 10, 10, 11, of which the layout for many beside int4 takes two.
MANY_FLOAT32: Final = 2
MANY_INT4: Final = 16


class Linear(Protocol):
    """``x @ weight.T + bias`` for x [tokens, in_features]; float in, float out."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """``residual + self(x)``; may change ``residual``."""
        return residual.add_(self(x))

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory."""
        ...


class PlainLinear(Linear):
    """Weights in the stored layout, [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + _bytes(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class SingleLinear(Linear):
    """Weights for a single token (GEMV): [in, out] if they have more columns than rows, else [out, in], which a CPU reads slightly faster
    (1 ms of SmolLM2's 26)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight.t().contiguous().t() if weight.shape[0] > 2 * weight.shape[1] else weight
        self.bias = bias

    @property
    def nbytes(self) -> int:
        return int(self._weight.nbytes) + _bytes(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.mv(self._weight, x[0])[None]
        return out if self.bias is None else out.add_(self.bias)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        residual[0].addmv_(self._weight, x[0])
        return residual if self.bias is None else residual.add_(self.bias)


class PackedLinear(Linear):
    """Weights in oneDNN's blocked layout, so that no call reorders them: for a CPU. bfloat16 gains at any number of tokens."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._bytes = weight.nbytes
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 8)
        self.bias = bias

    @staticmethod
    def available(dtype: torch.dtype) -> bool:
        """Whether this build of PyTorch has oneDNN's linear, and the CPU the instructions that it needs for weights of this dtype: on x86
        it takes bfloat16 with AVX-512 or AVX-NE-CONVERT only."""
        if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            return False
        return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    @property
    def nbytes(self) -> int:
        return self._bytes + _bytes(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
        return out

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, self.bias, "add")
        return out


class BySize(Linear):
    """One matrix in two layouts: ``few`` below ``many_from`` tokens, ``many`` from there on."""

    def __init__(self, few: Linear, many: Linear, many_from: int) -> None:
        self._few, self._many, self._many_from = few, many, many_from

    @property
    def nbytes(self) -> int:
        return self._few.nbytes + self._many.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return self._for(x)(x)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._for(x).add(x, residual)

    def _for(self, x: Tensor) -> Linear:
        return self._few if x.shape[0] < self._many_from else self._many


#: The zero point of activations. oneDNN multiplies unsigned by signed bytes fast on every x86 CPU with VNNI, but signed by signed only with
#: AMX: elsewhere it falls back to its reference loop, a thousand times slower.
_ZERO: Final = 128


@functools.cache
def _int8_is_exact() -> bool:
    """Whether a product of the largest codes is exact: without VNNI pairs of products are cut to 16 bits."""
    weight = torch.full((16, 64), 127, dtype=torch.int8)
    given = torch.full((2, 64), 255, dtype=torch.uint8)
    try:
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        product = torch.ops.onednn.qlinear_pointwise(
            given, 1.0, _ZERO, packed, torch.ones(16), torch.zeros(16, dtype=torch.int64), None, 1.0, 0, torch.float32, "none", [], ""
        )
    except RuntimeError:
        return False
    return bool((product == 127.0 * 127.0 * 64).all())


class Int8Linear(Linear):
    """int8 weights with one scale a row; int16 activations as two int8 halves, so that the int8 GEMM loses almost nothing.

    x is ``largest / 127 * (high + low / 254)`` with int8 ``high`` and ``low`` and the largest element of each token: an error of at most
    1/32,258 of it, where 8 bits alone cost SmolLM2 a KL divergence of 0.03. Both halves are rows of one int8 GEMM. Single tokens use the
    same kernel: PyTorch's GEMV kernel (7 ms for SmolLM2's layers instead of 9) computes in bfloat16, so a token's logits alone differed
    from those in a batch (by 2 % on small models).

    Args:
        codes: int8 [out, in].
        scales: float32 [out].
    """

    def __init__(self, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        self.bias = bias
        self._bytes = codes.nbytes + scales.nbytes
        self._weight = torch.ops.onednn.qlinear_prepack(codes.contiguous(), None)
        self._scales = scales / 127.0
        self._zeros = torch.zeros(codes.shape[0], dtype=torch.int64)
        self._most = torch.tensor(127.0)

    @staticmethod
    def available() -> bool:
        """Whether this build of PyTorch has oneDNN's int8 linear, and this CPU computes it without loss."""
        return torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_prepack") and _int8_is_exact()

    @property
    def nbytes(self) -> int:
        return self._bytes + _bytes(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        tokens = x.shape[0]
        largest = torch.linalg.vector_norm(x, float("inf"), -1, True, dtype=torch.float32).clamp_min_(1e-30)
        scaled = x * (self._most / largest)
        halves = scaled.new_empty((2, *x.shape))
        high, low = halves.unbind(0)
        torch.round(scaled, out=high)
        torch.sub(scaled, high, out=low).mul_(254.0)
        codes = halves.view(2 * tokens, -1).to(torch.int8).view(torch.uint8).bitwise_xor_(_ZERO)
        product = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, _ZERO, self._weight, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out = torch.add(product[:tokens], product[tokens:], alpha=1 / 254.0).mul_(largest)
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype)


class Int4Linear(Linear):
    """4-bit codes in groups of columns, each group with a scale and a float offset: ``scale * (code - 8) + offset``.

    PyTorch's CPU kernel computes in bfloat16. Its float offset can represent GGUF's Q4_1 minimums; integer zero points cannot.

    Args:
        codes: uint8 [out, in] below 16.
        scales, offsets: float32 [out, groups].
    """

    def __init__(self, codes: Tensor, scales: Tensor, offsets: Tensor, group: int, bias: Tensor | None = None) -> None:
        self._rows, self._group, self.bias = codes.shape[0], group, bias
        self._padding = -codes.shape[0] % 64  # the kernel takes whole blocks of rows
        if self._padding:
            codes, scales, offsets = (pad(part, (0, 0, 0, self._padding)) for part in (codes, scales, offsets))
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 2)
        self._scales = torch.stack((scales.t(), offsets.t()), -1).to(torch.bfloat16).contiguous()

    @property
    def nbytes(self) -> int:
        return self._weight.nbytes + self._scales.nbytes + _bytes(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        half = x.to(torch.bfloat16).contiguous()
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(half, self._weight, self._group, self._scales)
        if self._padding:
            out = out[:, : self._rows]
        out = out.to(x.dtype)
        return out if self.bias is None else out + self.bias


class SplitLinear(Linear):
    """float32 weights as the sum of two bfloat16 matrices in oneDNN's blocked layout: 16 bits of each weight.

    One bfloat16 matrix would take half the work, but its logits for many tokens would differ from those of the int4 kernel for few, which
    does not round its weights. With one matrix 43 % of the outputs of the two kernels differ in the last bit, with two 0.2 %.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        high = weight.to(torch.bfloat16)
        self._high, self._low = PackedLinear(high), PackedLinear((weight - high.float()).to(torch.bfloat16))
        self.bias = bias

    @property
    def nbytes(self) -> int:
        return self._high.nbytes + self._low.nbytes + _bytes(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        half = x.to(torch.bfloat16)
        out = self._high.add(half, self._low(half)).to(x.dtype)
        return out if self.bias is None else out + self.bias


class Stacked(Linear):
    """Several matrices with the same input and concatenated outputs, for parts that cannot share one kernel."""

    def __init__(self, parts: list[Linear]) -> None:
        self._parts = parts

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self._parts], -1)


def stays_plain(dtype: torch.dtype, device: torch.device, *, packed_copy: bool) -> bool:
    """Whether ``float_linear`` keeps the stored layout, so that another layer can share the weights."""
    return device.type != "cpu" or not PackedLinear.available(dtype) or (dtype == torch.float32 and not packed_copy)


def float_linear(weight: Tensor, bias: Tensor | None, *, packed_copy: bool) -> Linear:
    """The fastest layout for float weights on their device."""
    if stays_plain(weight.dtype, weight.device, packed_copy=packed_copy):
        return PlainLinear(weight, bias)
    if weight.dtype == torch.bfloat16:
        return PackedLinear(weight, bias)
    return BySize(SingleLinear(weight, bias), PackedLinear(weight, bias), MANY_FLOAT32)


def int4_linear(grouped: quantized.Grouped, bias: Tensor | None, *, packed_copy: bool) -> Linear:
    """4-bit groups; with ``packed_copy`` also a dequantised copy for many tokens."""
    few = Int4Linear(grouped.codes, grouped.scales, grouped.offsets, grouped.group, bias)
    if not packed_copy or not PackedLinear.available(torch.bfloat16):
        return few
    return BySize(few, SplitLinear(grouped.dequantize(), bias), MANY_INT4)


def _bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else int(tensor.nbytes)
