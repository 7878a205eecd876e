"""Linear layers as products of bytes: activations in 16 bits, weights in 8 or 16, with one scale for every row.

CPUs multiply bytes and add up the products many times as fast as floats, but only along whole rows: blocks with scales of their own
are too short for that. One scale a row costs exactness, which a second byte gives back: a weight is ``scale * (high + low / 254)``,
with both between -127 and 127, and so is an activation. The product of the two low bytes, 1/64,516 of a step, is left out.
Sums of integers are exact, so a token gets the same bits in whatever company it is computed.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_onnx.graph import CONTRIB, GraphWriter

Floats = npt.NDArray[np.float32]

#: The largest code; -128 is not used, so that codes are symmetric.
_TOP: Final = 127
#: Codes of a low byte for each of a high one: what rounding leaves is half a code up or down.
_FINER: Final = 2 * _TOP
#: What stands for 0 where activations are unsigned, as the operator's fast kernels want them.
_ZERO: Final = 128


@attrs.frozen(eq=False)
class RowMatrix:
    """A matrix with one scale for every row: ``scales * (high + low / 254)``.

    Attributes:
        high: int8 [rows, columns].
        low: int8 [rows, columns]; None where 8 bits are all that is kept.
        scales: float32 [rows].
    """

    high: npt.NDArray[np.int8]
    low: npt.NDArray[np.int8] | None
    scales: Floats

    @property
    def rows(self) -> int:
        return self.high.shape[0]

    def dequantize(self) -> Floats:
        """The matrix that it stands for, float32 [rows, columns]."""
        codes = self.high.astype(np.float32)
        if self.low is not None:
            codes += self.low.astype(np.float32) / np.float32(_FINER)
        return codes * self.scales[:, None]


def round_rows(weights: Floats, *, bits: int) -> RowMatrix:
    """The nearest codes of 8 or 16 ``bits``; ``weights`` [rows, columns] is left as it is."""
    scales = np.abs(weights).max(axis=1) / np.float32(_TOP)
    scales = np.where(scales == 0, np.float32(1), scales).astype(np.float32)
    codes = weights / scales[:, None]
    high = np.clip(np.rint(codes), -_TOP, _TOP)
    low: npt.NDArray[np.int8] | None = None
    if bits == 16:
        codes -= high
        codes *= np.float32(_FINER)
        low = np.clip(np.rint(codes), -_TOP, _TOP).astype(np.int8)
    return RowMatrix(high=high.astype(np.int8), low=low, scales=scales)


def emit_product(writer: GraphWriter, name: str, matrix: RowMatrix, value: str, bias: Floats | None, *, only: str) -> str:
    """Nodes for ``value @ matrix.T + bias`` in the graph ``only``; returns the name of the result."""
    high, low, largest = _halves(writer, value, only)
    high_step, low_step = _step(writer, "high", _TOP), _step(writer, "low", _TOP * _FINER)

    def product(codes: str, weights: str, step: str, result: str) -> str:
        inputs = [codes, weights, step, writer.constant(f"{name}.row_scales", matrix.scales), _zero(writer)]
        return writer.node("MatMulIntegerToFloat", inputs, f"{name}.{result}", domain=CONTRIB, only=only)

    if matrix.low is None:
        # One pass over the weights serves both halves of the activations, one below the other.
        stacked = _shared(writer, "Concat", [high, low], f"{value}.stacked", only=only, axis=0)
        both = product(stacked, writer.constant(f"{name}.high", matrix.high.T), high_step, "stacked")
        parts = [f"{name}.high_part", f"{name}.low_part"]
        writer.node("Split", [both], parts, only=only, axis=0)
        finer = writer.constant("finer", np.array([1 / _FINER], dtype=np.float32))
        parts[1] = writer.node("Mul", [parts[1], finer], f"{name}.low_scaled", only=only)
    else:
        # Low weights meet high activations and the other way round in one product of twice the columns.
        planes = writer.constant(f"{name}.planes", np.concatenate([matrix.high.T, matrix.low.T]))
        joined = _shared(writer, "Concat", [low, high], f"{value}.joined", only=only, axis=-1)
        parts = [
            product(high, writer.view(f"{name}.high", planes, matrix.high.T.shape), high_step, "high_part"),
            product(joined, planes, low_step, "low_part"),
        ]
    total = writer.node("Add", parts, f"{name}.total", only=only)
    if bias is None:
        return writer.node("Mul", [total, largest], f"{name}.product", only=only)
    scaled = writer.node("Mul", [total, largest], f"{name}.scaled", only=only)
    return writer.node("Add", [scaled, writer.constant(f"{name}.bias", bias)], f"{name}.product", only=only)


def _halves(writer: GraphWriter, value: str, only: str) -> tuple[str, str, str]:
    """High and low bytes of a value [n, columns] in units of the largest magnitude of each token, and these magnitudes [n, 1]."""
    names = (f"{value}.high", f"{value}.low", f"{value}.largest")
    if not writer.has(names[0]):
        high_step, low_step, zero = _step(writer, "high", _TOP), _step(writer, "low", _TOP * _FINER), _zero(writer)
        magnitudes = writer.node("Abs", [value], f"{value}.magnitudes", only=only)
        most = writer.node("ReduceMax", [magnitudes], f"{value}.most", only=only, axes=[-1], keepdims=1)
        writer.node("Max", [most, writer.constant("tiny", np.array([1e-30], dtype=np.float32))], names[2], only=only)
        unit = writer.node("Div", [value, names[2]], f"{value}.unit", only=only)
        writer.node("QuantizeLinear", [unit, high_step, zero], names[0], only=only)
        coarse = writer.node("DequantizeLinear", [names[0], high_step, zero], f"{value}.coarse", only=only)
        rest = writer.node("Sub", [unit, coarse], f"{value}.rest", only=only)
        writer.node("QuantizeLinear", [rest, low_step, zero], names[1], only=only)
    return names


def _shared(writer: GraphWriter, op: str, inputs: list[str], output: str, *, only: str, axis: int) -> str:
    return output if writer.has(output) else writer.node(op, inputs, output, only=only, axis=axis)


def _step(writer: GraphWriter, half: str, codes: int) -> str:
    return writer.constant(f"{half}_step", np.array(1 / codes, dtype=np.float32))


def _zero(writer: GraphWriter) -> str:
    return writer.constant("byte_zero", np.array(_ZERO, dtype=np.uint8))
