"""The device and the precision of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import torch
from torch import Tensor

from llmasos_backend_torch import quantized
from llmasos_backend_torch.linear import Int8Linear, Linear, PackedLinear, Stacked, float_linear, int4_linear, stays_plain
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.tensors import as_torch
from llmasos_hookspecs import Checkpoint, ConfigError, QuantizedTensor, Tensor as StoredTensor

#: Largest share of the free memory that a second copy of the weights may take.
_COPY_SHARE: Final = 0.25


@attrs.frozen
class Precision:
    """The storage format of matrices and the arithmetic on them.

    Attributes:
        dtype: ``float32``, ``bfloat16``, ``int8`` or ``int4``, as ``EngineInfo`` names it.
        device: the device of weights and activations.
        keep: keep in floats the matrices that int8 and int4 would have to round, except the head beside int4.
        packed_copy: keep float32 and int4 matrices in two layouts, for few tokens and for many.
        notes: what ``matrix`` rounded, one sentence each, for ``EngineInfo``.
    """

    dtype: str
    device: torch.device
    packed_copy: bool = False
    keep: bool = False
    notes: set[str] = attrs.field(factory=set, eq=False)

    @property
    def compute(self) -> torch.dtype:
        """The dtype of activations, norms and the KV cache. It is float32 for quantised weights, although the int4 kernel takes bfloat16
        inputs: all-bfloat16 arithmetic rounds differently for one token and for many, and the difference grows from layer to layer."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    @property
    def shares_embedding(self) -> bool:
        """Whether a head that is tied to the embedding can be that very tensor."""
        return self.dtype in ("float32", "bfloat16") and stays_plain(self.compute, self.device, packed_copy=self.packed_copy)

    def matrix(self, parts: list[StoredTensor], bias: Tensor | None = None, *, head: bool = False) -> Linear:
        """One linear layer of matrices [out, in] over the same input, stacked along ``out``.

        ``head``: the matrix is the output head, whose rounding error acts directly on the logits; it stays at 8 bits if int4 would round
        it.
        """
        if self.dtype == "int8":
            return self._int8(parts, bias, keep=self.keep)
        if self.dtype == "int4":
            return self._int4(parts, bias, head)
        weight = torch.cat([as_torch(part, self.compute) for part in parts])
        return float_linear(weight.to(self.device), bias, packed_copy=self.packed_copy)

    def _int4(self, parts: list[StoredTensor], bias: Tensor | None, head: bool) -> Linear:
        found = [self._groups(part, head) for part in parts]
        whole = [grouped for grouped in found if grouped is not None]
        if len(whole) == len(parts) and len({grouped.group for grouped in whole}) == 1:
            joined = quantized.Grouped(
                torch.cat([grouped.codes for grouped in whole]),
                torch.cat([grouped.scales for grouped in whole]),
                torch.cat([grouped.offsets for grouped in whole]),
                whole[0].group,
            )
            return int4_linear(joined, bias, packed_copy=self.packed_copy)
        if len(parts) > 1:
            return _side_by_side(parts, bias, lambda part, own: self._int4([part], own, head))
        # Beside layers computed in bfloat16 an 8-bit head adds no measurable error, and is read several times as fast.
        return self._int8(parts, bias, keep=self.keep and not head)

    def _groups(self, part: StoredTensor, head: bool) -> quantized.Grouped | None:
        """4-bit groups of a matrix; None if they would round its codes, or it should stay wider."""
        if isinstance(part, QuantizedTensor):
            return quantized.stored_groups(part)
        if head or self.keep:
            return None
        grouped = quantized.round_to_groups(as_torch(part, torch.float32))
        if grouped is not None:
            self.notes.add(f"Float weights were rounded to 4 bits in groups of {quantized.NEW_GROUP}.")
        return grouped

    def _int8(self, parts: list[StoredTensor], bias: Tensor | None, *, keep: bool) -> Linear:
        """``keep``: keep in floats what the kernel cannot represent exactly."""
        if keep and not all(isinstance(part, QuantizedTensor) and quantized.fits_rows(part) for part in parts):
            if len(parts) > 1:
                return _side_by_side(parts, bias, lambda part, own: self._int8([part], own, keep=True))
            return float_linear(as_torch(parts[0], self.compute).to(self.device), bias, packed_copy=self.packed_copy)
        rows = [self._rows(part) for part in parts]
        codes, scales = torch.cat([codes for codes, _ in rows]), torch.cat([scales for _, scales in rows])
        return Int8Linear(codes, scales, bias)

    def _rows(self, part: StoredTensor) -> tuple[Tensor, Tensor]:
        stored = quantized.stored_rows(part) if isinstance(part, QuantizedTensor) else None
        if stored is not None:
            return stored
        self.notes.add("Weights were rounded to 8 bits with one scale a row.")
        return quantized.round_to_rows(as_torch(part, torch.float32))


def _side_by_side(parts: list[StoredTensor], bias: Tensor | None, make: Callable[[StoredTensor, Tensor | None], Linear]) -> Linear:
    """Matrices with the same input that cannot share one kernel, each with its part of the bias."""
    biases = [None] * len(parts) if bias is None else list(bias.split([part.shape[0] for part in parts]))
    return Stacked([make(part, own) for part, own in zip(parts, biases, strict=True)])


def choose_precision(checkpoint: Checkpoint, options: Options, *, memory: int | None) -> Precision:
    """The precision of the options, with ``auto`` resolved by the checkpoint and the machine.

    Raises ``ConfigError`` if the machine does not support it.
    """
    device = _device(options.device)
    dtype: str = options.dtype
    if dtype in ("int8", "int4") and device.type != "cpu":
        raise ConfigError(f"{dtype} runs on the CPU only, and the device is {device}; use bfloat16, or device = 'cpu'.", "loader.dtype")
    if dtype in ("int8", "int4") and not Int8Linear.available():
        lacking = "this CPU has no VNNI" if torch.backends.mkldnn.is_available() else "this build of PyTorch has no oneDNN"
        raise ConfigError(f"{dtype} needs exact products of int8, and {lacking}; use float32 or bfloat16, or 'auto'.", "loader.dtype")
    if dtype == "auto":
        dtype = _stored_dtype(checkpoint) if device.type == "cpu" else "bfloat16"
    copied = options.packed_copy and device.type == "cpu" and _copy_fits(checkpoint, dtype, memory)
    return Precision(dtype, device, copied, keep=options.dtype == "auto")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"The device is {name!r}, and PyTorch finds no CUDA GPU; use 'cpu', or install PyTorch for CUDA.", "loader.device"
        )
    index = int(name.partition(":")[2] or torch.cuda.current_device())
    if index >= torch.cuda.device_count():
        raise ConfigError(f"The device is {name!r}, and this machine has {torch.cuda.device_count()} CUDA GPUs.", "loader.device")
    return torch.device("cuda", index)


def stores_groups(checkpoint: Checkpoint) -> bool:
    """Whether the layers are stored in codes that the int4 kernel can represent."""
    tensor = _deciding_matrix(checkpoint)
    return isinstance(tensor, QuantizedTensor) and quantized.fits_groups(tensor)


def _deciding_matrix(checkpoint: Checkpoint) -> StoredTensor | None:
    """A layer's matrix, because the embedding is often stored wider; None where there are no matrices."""
    names = [name for name in checkpoint.names() if len(checkpoint.shape(name)) == 2]
    name = next((name for name in names if "layers.0." in name or ".h.0." in name), names[0] if names else None)
    return None if name is None else checkpoint.tensor(name)


def _stored_dtype(checkpoint: Checkpoint) -> str:
    """The (nearly) lossless precision on a CPU: codes stay codes if a kernel can represent them, bfloat16 stays, else float32."""
    tensor = _deciding_matrix(checkpoint)
    if tensor is None:
        return "float32"
    if isinstance(tensor, QuantizedTensor):
        if not Int8Linear.available():
            return "float32"
        if quantized.fits_groups(tensor):
            return "int4"
        return "int8" if quantized.fits_rows(tensor) else "float32"
    return "bfloat16" if tensor.dtype.name == "bfloat16" and PackedLinear.available(torch.bfloat16) else "float32"


def _copy_fits(checkpoint: Checkpoint, dtype: str, memory: int | None) -> bool:
    if dtype in ("bfloat16", "int8"):
        return False
    weights = sum(_product(checkpoint.shape(name)) for name in checkpoint.names())
    first, second = {"float32": (4, 4), "int4": (1, 4)}[dtype]  # bytes a weight
    if memory is not None and weights * (first + second) > memory / 2:
        return False
    return weights * second <= _available_memory() * _COPY_SHARE


def _available_memory() -> int:
    """Bytes available without swapping; 0 if the system does not report them."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
